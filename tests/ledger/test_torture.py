"""Kills, mutations and a crowd, in counts that a test suite has time for. The full ones: `python -m tests.ledger.torture`."""

import pytest

from tests.ledger import torture


def test_kills_lose_no_commit_that_was_told_and_harm_nothing(tmp_path):
    count, told, lost, broken = torture.kills(tmp_path, 6, seed=3)
    assert (count, lost, broken) == (6, 0, 0)
    assert told >= 6


def test_no_mutation_of_a_ledger_is_accepted(tmp_path):
    outcomes = torture.mutate_ledgers(tmp_path, 120, seed=5)
    assert outcomes["accepted"] == 0
    assert outcomes["refused"] > 60


@pytest.mark.pain(13)
def test_no_mutation_of_a_checkpoint_is_accepted(tmp_path):
    outcomes = torture.mutate_checkpoints(tmp_path, 400, seed=7)
    assert outcomes["accepted"] == 0
    assert outcomes["refused"] > 300


@pytest.mark.pain(11)
def test_a_crowd_on_a_file_waits_its_turn(tmp_path):
    problems, lost, _waits = torture.crowd(tmp_path / "home", processes=6, commands=8)
    assert (problems, lost) == ([], 0)


def test_a_crowd_on_a_server_waits_its_turn(tmp_path, postgresql):
    problems, lost, _waits = torture.crowd(tmp_path / "home", processes=4, commands=8, url=postgresql.new(template=postgresql.migrated))
    assert (problems, lost) == ([], 0)
