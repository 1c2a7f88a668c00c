"""The pure rules of renting: spans, where work is kept, what a machine must be, and what the guard decides."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumina_cloud.core.errors import RefusedError, UsageError
from lumina_cloud.remote.bootstrap import Gpu, MachineFacts, facts
from lumina_cloud.remote.guard import Watch
from lumina_cloud.runs import fitness, keeping, terms


@pytest.mark.parametrize(("text", "seconds"), [("15m", 900), ("90s", 90), ("2h", 7200), ("15", 900), ("1.5h", 5400), ("15min", 900)])
def test_a_span_is_read(text, seconds):
    assert terms.parse_span("--lease", text) == seconds


@pytest.mark.pain(6)
@pytest.mark.parametrize("text", ["", "x", "-5m", "1s", "nan", "inf", "15 parsecs", "1e9h"])
def test_a_span_that_is_none_is_refused_with_an_example(text):
    with pytest.raises(UsageError, match="--lease") as error:
        terms.parse_span("--lease", text)
    assert "--lease 15m" in error.value.hint


def test_a_b7_checkpoint_is_98_gb_and_is_refused_without_a_store():
    with pytest.raises(RefusedError, match="98 GB") as error:
        keeping.decide(7_000_000_000, checkpoint_minutes=15, store=None)
    assert "--store" in error.value.hint
    made = keeping.decide(7_000_000_000, checkpoint_minutes=15, store="s3://bucket")
    assert made.where == "store"
    assert made.checkpoint_seconds < made.interval_seconds


@given(st.integers(1, 10**11), st.floats(1, 10_000))
def test_what_is_kept_always_arrives_within_the_interval(parameters, minutes):
    for store in (None, "s3://b"):
        try:
            made = keeping.decide(parameters, checkpoint_minutes=minutes, store=store)
        except RefusedError:
            continue
        assert made.checkpoint_seconds <= made.interval_seconds


WANTED = fitness.Wanted("RTX4090", 1, 24.0, 512)


def machine(**changed):
    base = {
        "disk_mib": 50_000,
        "gpus": (Gpu("NVIDIA GeForce RTX 4090", 24_564, "570"),),
        "torch": "2.8.0",
        "torch_cuda": "12.8",
        "cuda_devices": 1,
    }
    return MachineFacts(**{**base, **changed})


@pytest.mark.parametrize(
    ("facts_", "word"),
    [
        (machine(gpus=()), "0 GPUs"),
        (machine(gpus=(Gpu("NVIDIA GeForce RTX 3090", 24_576, "570"),)), "RTX 3090"),
        (machine(gpus=(Gpu("NVIDIA GeForce RTX 4090 Laptop GPU", 16_376, "570"),)), "Laptop"),
        (machine(gpus=(Gpu("NVIDIA GeForce RTX 4090", 12_000, "570"),)), "12,000 MiB"),
        (machine(disk_mib=100), "disk"),
        (machine(cuda_devices=0), "can use 0 of 1"),
    ],
)
def test_a_machine_that_is_not_what_was_offered_is_told_apart(facts_, word):
    assert word in fitness.unfit(facts_, WANTED)


def test_a_machine_that_is_what_was_offered_is_taken():
    assert fitness.unfit(machine(), WANTED) is None
    todo = fitness.preparation(machine(), rehearsal=False)
    assert (todo.install, todo.torch_too, todo.device) == (False, False, "cuda")


def test_an_image_without_a_fitting_torch_gets_one():
    assert fitness.preparation(machine(torch=None), rehearsal=False).torch_too
    assert fitness.preparation(machine(torch="2.1.0"), rehearsal=False).torch_too
    assert fitness.preparation(machine(torch="2.13.0+cpu", torch_cuda=None), rehearsal=False).torch_too
    assert not fitness.preparation(machine(torch="2.13.0+cpu", torch_cuda=None, cuda_devices=0), rehearsal=True).install


@given(st.text(max_size=400))
def test_what_a_machine_prints_crashes_nothing(text):
    inner = json.dumps({"python": text, "torch": text, "cuda_devices": 10**30, "missing": text})
    read = facts(f"gpu {text}\ndisk_mib {text[:20]}\ncuda {text[:30]}\nfacts {inner}".replace("\x00", ""))
    assert read.cuda_devices == 0
    assert fitness.unfit(read, WANTED)


# --- the guard's clocks ----------------------------------------------------------------------------------------------------

LIMITS = {"lease_seconds": 60.0, "deadline_seconds": 600.0, "budget_seconds": 900.0, "seq": 0}
NOTHING = {"lease": "", "done": False, "home": False}


@given(st.lists(st.floats(0.1, 50), min_size=1, max_size=60), st.floats(0, 1e9))
def test_a_lease_that_is_renewed_in_time_never_runs_out_and_the_deadline_holds(pauses, start):
    watch, now, lived = Watch({}, start, "boot"), start, 0.0
    for n, pause in enumerate(pauses):
        now, lived = now + pause, lived + pause
        reason = watch.reason(LIMITS, {**NOTHING, "lease": str(n)}, now)
        assert reason in (("", "deadline") if abs(lived - 600) < 1e-3 else ("deadline",) if lived > 600 else ("",))
        if reason:
            return


@pytest.mark.pain(6)
def test_nobody_heard_of_for_the_lease_ends_it():
    watch = Watch({}, 0.0, "boot")
    assert watch.reason(LIMITS, NOTHING, 59.0) == ""
    assert watch.reason(LIMITS, NOTHING, 61.0) == "lease"


def test_a_restarted_guard_knows_how_long_it_has_lived_and_a_reboot_does_not_begin_anew():
    first = Watch({}, 1000.0, "boot")
    first.reason(LIMITS, NOTHING, 1030.0)
    again = Watch(first.state(), 1050.0, "boot")
    assert again.reason(LIMITS, NOTHING, 1061.0) == "lease"
    rebooted = Watch(first.state(), 5.0, "other boot")
    assert rebooted.reason(LIMITS, NOTHING, 36.0) == "lease"


@given(
    st.dictionaries(
        st.sampled_from(["boot", "at", "lived", "unheard", "fetched", "lease", "seq", "seq_at"]),
        st.none() | st.text() | st.floats() | st.booleans(),
    )
)
def test_a_spoilt_state_makes_the_guard_stricter_or_equal_and_never_crash(kept):
    watch = Watch(kept, 10.0, "boot")
    first = watch.reason({}, NOTHING, 10.0 + 100_000.0)
    # A renewal that was only remembered wrongly counts once.
    assert first or watch.reason({}, NOTHING, 10.0 + 200_000.0)


def test_limits_that_come_later_count_from_when_they_came():
    watch = Watch({}, 0.0, "boot")
    assert watch.reason(LIMITS, NOTHING, 50.0) == ""
    later = {**LIMITS, "seq": 1, "deadline_seconds": 20.0}
    assert watch.reason(later, NOTHING, 55.0) == ""
    assert watch.reason(later, {**NOTHING, "lease": "x"}, 76.0) == "deadline"


def test_limits_that_cannot_be_read_for_a_moment_begin_no_new_span():
    later = {**LIMITS, "seq": 1, "deadline_seconds": 20.0}
    watch = Watch({}, 0.0, "boot")
    assert watch.reason(later, NOTHING, 5.0) == ""
    assert watch.reason({}, NOTHING, 24.0) == ""
    assert watch.reason(later, NOTHING, 26.0) == "deadline"
    assert json.loads(json.dumps(watch.state())).get("seq") == 1
    unread = Watch({}, 0.0, "boot")
    unread.reason(later, NOTHING, 5.0)
    assert unread.reason({}, NOTHING, 26.0) == "deadline"
