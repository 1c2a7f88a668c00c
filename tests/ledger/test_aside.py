"""A machine that could not be stored is known to more than a dead process."""

import threading

import pytest

from lumina_cloud.core.errors import LedgerError
from lumina_cloud.ledger import aside

MACHINE = aside.Machine("2026-03-04T05:06:07+00:00", "vastai", "30000001", "r-1", "lumina-r-1-abc")
FULL = LedgerError("the disk of the ledger is full", "free some space")


def test_it_is_written_beside_the_ledger_and_told(tmp_path):
    error = aside.keep(tmp_path, MACHINE, FULL)
    assert aside.pending(tmp_path) == [MACHINE]
    for said in ("30000001", "lumina-r-1-abc", str(tmp_path / aside.NAME), "disk of the ledger is full"):
        assert said in error.message
    assert "free some space" in error.hint
    assert "lumina reconcile" in error.hint


def test_where_nothing_can_be_written_it_is_told_in_full(tmp_path):
    error = aside.keep(tmp_path / "gone", MACHINE, FULL)
    assert "30000001" in error.message
    assert "note it" in error.message


def test_what_the_ledger_knows_by_now_is_dropped_and_the_rest_stays(tmp_path):
    other = aside.Machine(MACHINE.at, "runpod", "abc", "s-1", "lumina-s-1-abc")
    for machine in (MACHINE, other):
        aside.keep(tmp_path, machine, FULL)
    assert aside.settle(tmp_path, lambda m: m == MACHINE) == [other]
    assert aside.pending(tmp_path) == [other]
    assert aside.settle(tmp_path, lambda _m: True) == []
    assert not (tmp_path / aside.NAME).exists()
    assert aside.settle(tmp_path, lambda _m: True) == []


def test_a_machine_that_is_written_down_while_others_are_dropped_stays(tmp_path):
    other = aside.Machine(MACHINE.at, "runpod", "abc", "s-1", "lumina-s-1-abc")
    aside.keep(tmp_path, MACHINE, FULL)
    beside = threading.Thread(target=aside.keep, args=(tmp_path, other, FULL))

    def is_known(machine):
        if not beside.ident:
            beside.start()
            beside.join(0.3)
        return machine == MACHINE

    aside.settle(tmp_path, is_known)
    beside.join()
    assert aside.pending(tmp_path) == [other]


@pytest.mark.parametrize("line", [b"\xff\xfe", b"{}", b"[1]", b"null", b'{"at": 1}'])
def test_a_line_that_makes_no_sense_is_passed_over(tmp_path, line):
    (tmp_path / aside.NAME).write_bytes(line + b"\n")
    assert aside.pending(tmp_path) == []


def test_a_line_that_comes_while_the_others_are_dropped_is_not_lost(tmp_path):
    """Another command writes its machine down just when this one has looked which of them the ledger knows."""
    other = aside.Machine(MACHINE.at, "runpod", "abc", "s-1", "lumina-s-1-abc")
    aside.keep(tmp_path, MACHINE, FULL)
    writers = []

    def known(_machine):
        if not writers:
            writers.append(threading.Thread(target=aside.keep, args=(tmp_path, other, FULL)))
            writers[0].start()
            writers[0].join(0.3)
        return True

    aside.settle(tmp_path, known)
    writers[0].join()
    assert aside.pending(tmp_path) == [other]
