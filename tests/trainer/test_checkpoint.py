"""A checkpoint is whole or it is none: whatever is cut, flipped, missing or left behind by a writer that died."""

import json
import math
import random
import shutil
import threading
import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from trainer import checkpoint
from trainer.errors import CannotWrite, DataError

ALONE = checkpoint.Place(0, 1)


def write(folder, step, *, keep=2, background=False, after=None):
    writer = checkpoint.Writer(folder, ALONE, keep=keep, after=after)
    tensors = {"weight/a@0": torch.full((700,), float(step)), "exp_avg/a@0": torch.arange(700.0)}
    writer.begin(step, tensors, {"format": checkpoint.FORMAT, "step": step}, background=background)
    writer.finish()


@pytest.fixture
def two(tmp_path):
    write(tmp_path, 1)
    write(tmp_path, 2)
    return tmp_path


@given(st.integers(1, 400), st.integers(1, 5000), st.integers(0, 20_000))
def test_a_run_is_kept_at_its_tenths_and_writing_takes_a_tenth_of_its_time_at_most(steps, step_ms, writing_ms):
    """But for the first one, of which nobody knows how long it takes; while one is being written none is begun."""
    begun, kept, known = 0, [], 0
    for step in range(1, steps + 1):
        now = step * step_ms
        if kept and now >= begun + writing_ms:
            known = writing_ms
        busy = bool(kept) and now < begun + writing_ms
        if not busy and checkpoint.is_in_turn(step, steps, now - begun, known):
            begun = now
            kept.append(step)
    assert len(kept) <= 10
    assert (len(kept) - 1) * writing_ms * 10 <= steps * step_ms
    if 10 * writing_ms <= step_ms:
        assert len(kept) == steps // math.ceil(steps / 10)


def test_a_store_that_is_slow_holds_up_no_step(tmp_path):
    """What is being uploaded still is being written: none is begun in turn, so nothing waits for it."""
    going_on = threading.Event()
    writer = checkpoint.Writer(tmp_path, ALONE, keep=2, after=lambda _folder: going_on.wait(60))
    writer.begin(1, {"weight/a@0": torch.zeros(7)}, {"format": checkpoint.FORMAT, "step": 1}, background=True)
    while checkpoint.newest(tmp_path) is None:
        time.sleep(0.001)
    assert writer.busy
    going_on.set()
    writer.finish()
    assert not writer.busy


def test_the_newest_is_taken(two):
    assert checkpoint.state(checkpoint.newest(two))["step"] == 2


def test_one_that_is_cut_at_any_place_is_refused_and_the_one_before_it_used(two):
    """Every length of the small files, and of the large ones every 97 bytes, both ends and the 4 KiB boundaries."""
    newest, cuts = two / "step-000002", 0
    for path in sorted(newest.iterdir()):
        whole = path.read_bytes()
        lengths = (
            range(len(whole)) if len(whole) < 1000 else sorted({*range(0, len(whole), 97), len(whole) - 1, *range(0, len(whole), 4096)})
        )
        for length in lengths:
            path.write_bytes(whole[:length])
            said = []
            found = checkpoint.newest(two, said.append)
            assert found is not None and found.name == "step-000001", f"{path.name} cut to {length} of {len(whole)} bytes was taken"
            assert said and said[0].startswith("step-000002 is not used: ")
            cuts += 1
        path.write_bytes(whole)
    assert cuts > 300
    assert checkpoint.newest(two).name == "step-000002"


def test_one_with_a_flipped_bit_is_refused(two):
    draw, newest = random.Random(5), two / "step-000002"
    data = [path for path in newest.iterdir() if path.name != "manifest.json"]
    for _ in range(300):
        path = draw.choice(data)
        whole = path.read_bytes()
        at = draw.randrange(len(whole))
        path.write_bytes(whole[:at] + bytes([whole[at] ^ (1 << draw.randrange(8))]) + whole[at + 1 :])
        assert "is not what was written" in checkpoint.damage(newest)
        path.write_bytes(whole)


def test_one_with_a_file_gone_is_refused(two):
    (two / "step-000002" / "state.json").unlink()
    assert checkpoint.damage(two / "step-000002") == "state.json is missing"


def test_what_a_dead_writer_left_is_never_looked_at_and_cleared_away(two):
    shutil.copytree(two / "step-000002", two / ".step-000003.part")
    assert checkpoint.newest(two).name == "step-000002"
    write(two, 4)
    assert sorted(p.name for p in two.iterdir()) == ["step-000002", "step-000004"]


def test_as_many_as_asked_for_are_kept(tmp_path):
    for step in range(1, 6):
        write(tmp_path, step, keep=3, background=True)
    assert [p.name for p in checkpoint.named(tmp_path)] == ["step-000003", "step-000004", "step-000005"]


def test_the_manifest_is_what_the_orchestrator_verifies(two):
    from lumina_cloud.remote import checkpoints as at_home

    assert at_home.newest(two) == two / "step-000002"
    listed = json.loads((two / "step-000002" / "manifest.json").read_text())
    assert {item["path"] for item in listed} == {"rank-00000-0000.safetensors", "state.json"}


@pytest.mark.parametrize("background", [False, True])
def test_one_that_cannot_be_written_says_so_and_leaves_the_last(two, background):
    writer = checkpoint.Writer(two, ALONE, keep=1)
    unwritable = {"weight/a@0": torch.ones(3), "weight/b@0": torch.ones(2)[:1].as_strided((4,), (0,))}
    with pytest.raises(CannotWrite, match="cannot be written"):
        writer.begin(3, unwritable, {"format": checkpoint.FORMAT}, background=background)
        writer.finish()
    assert checkpoint.newest(two).name == "step-000002"


def test_a_failing_upload_is_remembered_until_one_succeeds(two):
    failing = [True]

    def upload(folder):
        if failing:
            raise CannotWrite(f"no room for {folder.name}")

    writer = checkpoint.Writer(two, ALONE, keep=2, after=upload)
    tensors, state = {"weight/a@0": torch.ones(3)}, {"format": checkpoint.FORMAT}
    writer.begin(3, tensors, state, background=True)
    writer.finish()
    assert "no room for step-000003" in str(writer.unstored)
    assert checkpoint.newest(two).name == "step-000003", "it is whole here all the same"
    failing.clear()
    writer.begin(4, tensors, state, background=False)
    assert writer.unstored is None


def test_another_format_is_named(two):
    (two / "step-000002" / "state.json").write_text('{"format": 1}')
    with pytest.raises(DataError, match="format 1, and this trainer reads format 2"):
        checkpoint.state(two / "step-000002")
