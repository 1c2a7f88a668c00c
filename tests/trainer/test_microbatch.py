"""The largest micro batch is searched from where the plan put it, and a size that ran out of memory in training is not tried again."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.cli import resuming
from trainer.errors import OutOfMemory
from trainer.microbatch import is_no_memory, remember_too_much, search, too_much

SIZES = [1, 2, 4, 8, 16, 32]


@given(most=st.integers(1, 40), at=st.integers(0, len(SIZES) - 1))
def test_the_largest_that_fits_is_found_wherever_the_search_begins(most, at):
    tried = []

    def fits(size):
        tried.append(size)
        return size <= most

    assert search(SIZES, at, fits) == max(size for size in SIZES if size <= most)
    assert len(tried) == len(set(tried)), "a try costs half a minute"


def test_nothing_fits_is_an_error_that_says_what_would():
    with pytest.raises(OutOfMemory, match="higher zero_stage"):
        search(SIZES, 3, lambda size: False)


def test_what_was_too_much_is_remembered_for_the_next_start(tmp_path):
    assert too_much(tmp_path) == math.inf
    remember_too_much(tmp_path, 8)
    assert too_much(tmp_path) == 8


@pytest.mark.parametrize("damage", ["", "{}", "[]", '{"micro_batch": "many"}', "\0"])
def test_a_damaged_note_is_no_note(tmp_path, damage):
    remember_too_much(tmp_path, 8)
    next(tmp_path.iterdir()).write_text(damage)
    assert too_much(tmp_path) == math.inf


def test_a_run_that_starts_again_with_less_goes_on_from_its_checkpoint():
    asked = ["train", "--config", "run.json", "--out", "out", "--micro-batch", "auto"]
    assert resuming(asked) == [*asked, "--resume"]
    assert resuming(resuming(asked)) == [*asked, "--resume"]


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (RuntimeError("CUDA error: out of memory"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (MemoryError(), True),
        (RuntimeError("shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_only_want_of_memory_is_taken_for_it(error, expected):
    assert is_no_memory(error) is expected
