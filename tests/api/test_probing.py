"""What a probe measured is taken in place of what was modelled, for as long as it speaks of this workload on this computer."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import pytest

from lumina_cloud.api import probing
from lumina_cloud.api.probing import KEPT_SECONDS, Probe, known
from lumina_cloud.planner.learning import Lessons
from lumina_cloud.planner.plan import family_of
from trainer.config import preset

FOUND = Probe(2000.0, 0.5, 1000.0, 0.6, 20.0, "0.01", 12, overhead_seconds=15.0, modelled_overhead_seconds=10.0)


@pytest.fixture
def config():
    return preset("debug", "dense")


@pytest.fixture
def kept(tmp_path, config):
    probing.keep(tmp_path, config, FOUND)
    return tmp_path


def lesson(home, config):
    return known(home, [config], Lessons()).of("tokens_per_second", "cpu", "local", family_of(config))


def test_the_measured_speed_is_the_estimates(kept, config):
    learned = lesson(kept, config)
    assert "2,000 measured, 1,000 modelled" in learned.levels[0][0]
    assert learned.factor == pytest.approx(2)


def test_time_beside_the_steps_is_the_probe_s_too(kept, config):
    assert known(kept, [config], Lessons()).of("overhead", "cpu", "local", family_of(config)).factor == pytest.approx(1.5)
    probing.keep(kept, config, replace(FOUND, overhead_seconds=0.0))
    assert not known(kept, [config], Lessons()).of("overhead", "cpu", "local", family_of(config)).levels


def test_another_workload_is_not_taken_for_it(kept, config):
    other = replace(config, training=replace(config.training, seq_len=512))
    assert not lesson(kept, other).levels


@pytest.mark.parametrize("damage", [b"", b"{}", b"[1]", b"\xff\xfe", b'{"tokens_per_second": 1}'])
def test_a_damaged_note_is_none(kept, config, damage):
    next((kept / "probes").iterdir()).write_bytes(damage)
    assert not lesson(kept, config).levels


def test_an_old_measurement_is_made_again(kept, config):
    path = next((kept / "probes").iterdir())
    old = time.time() - KEPT_SECONDS - 60
    os.utime(path, (old, old))
    assert not lesson(kept, config).levels
