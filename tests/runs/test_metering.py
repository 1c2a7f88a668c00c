"""Clocks that are off by a day, step back, or are set in the middle: the cost is right to a cent, and no time is negative."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from hypothesis import given, settings
from hypothesis import strategies as st

from lumina_cloud.core import money
from lumina_cloud.runs.metering import Reading, charged_until, elapsed, reading_of

PRICE = Decimal("3.78")
TRUE_START = datetime(2026, 3, 28, 20, tzinfo=UTC)  # the night in which Europe puts its clocks forward
DAY = timedelta(hours=24)
offsets = st.timedeltas(-DAY, DAY)


@dataclass
class World:
    """A provider whose clock is right, and this computer, whose clock is set now and then."""

    skew: timedelta
    now: datetime = TRUE_START

    def reading(self):
        return Reading(self.now + self.skew, "boot-1", (self.now - TRUE_START).total_seconds() + 1000.0)


@st.composite
def histories(draw):
    """Return steps of (seconds that pass, how far the clock is off after them)."""
    return draw(st.lists(st.tuples(st.integers(1, 4000), offsets), min_size=1, max_size=20)), draw(offsets)


def cost(until):
    return money.for_time(PRICE, until - TRUE_START)


@given(histories(), st.booleans())
@settings(max_examples=300, deadline=None)
def test_with_a_provider_that_has_a_clock_the_cost_is_right_at_each_reading(history, ends):
    steps, first = history
    world, known = World(first), None
    for seconds, skew in steps:
        world.now += timedelta(seconds=seconds)
        world.skew = skew
        until = charged_until(
            created_at=TRUE_START,
            ended_at=None,
            known_until=known,
            # What dated answers tell is right to a second or so.
            skew=skew.total_seconds() + 0.8,
            adopted=None,
            now=world.reading(),
        )
        assert until >= (known or TRUE_START)
        assert abs(cost(until) - cost(world.now)) <= Decimal("0.01")
        known = until
    if ends:
        ended = world.now + timedelta(seconds=30)
        assert cost(
            charged_until(created_at=TRUE_START, ended_at=ended, known_until=known, skew=0.0, adopted=None, now=world.reading())
        ) == cost(ended)


@given(histories())
@settings(max_examples=300, deadline=None)
def test_without_one_the_seconds_of_this_computer_are_counted(history):
    """A provider that keeps no times: its machine's creation is when we asked for it, by our own clock of that moment."""
    steps, first = history
    world, known = World(first), None
    created = world.now + world.skew
    adopted = world.reading()
    for seconds, skew in steps:
        world.now += timedelta(seconds=seconds)
        world.skew = skew
        until = charged_until(created_at=created, ended_at=None, known_until=known, skew=None, adopted=adopted, now=world.reading())
        assert until >= created
        assert abs((until - created) - (world.now - TRUE_START)) < timedelta(seconds=0.01)
        known = until


@given(offsets, st.integers(60, 50_000))
def test_an_end_by_a_clock_that_was_set_meanwhile_charges_no_more_than_passed(jump, seconds):
    """The local machine's end is written by the same clock that may have been set: forward it must not charge a day, back not minus one."""
    world = World(timedelta(0))
    adopted = world.reading()
    world.now += timedelta(seconds=seconds)
    world.skew = jump
    ended = world.now + world.skew
    until = charged_until(created_at=TRUE_START, ended_at=ended, known_until=None, skew=None, adopted=adopted, now=world.reading())
    assert TRUE_START <= until <= world.now
    if jump >= timedelta(0):
        assert until == world.now


def test_readings_of_two_starts_of_the_computer_are_compared_by_its_clock():
    first = Reading(TRUE_START, "boot-1", 99_000.0)
    later = Reading(TRUE_START + timedelta(hours=2), "boot-2", 10.0)
    assert elapsed(first, later) == timedelta(hours=2)
    assert elapsed(later, first) == timedelta(0)


def test_a_reading_survives_the_ledger():
    reading = Reading(TRUE_START, "boot-1", 12.5)
    assert reading_of(reading.as_data()) == reading
    assert reading_of({}) is None
    assert reading_of({"boot": 1, "counted": "x", "wall": "then"}) is None
