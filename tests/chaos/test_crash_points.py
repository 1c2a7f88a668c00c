"""Crash points come out of a log of edges, and a sample gives every site its turn."""

import random

from tests.chaos import crash_points

LOG = """\
vastai.create@0000000a:1:before\truns/controller.py:10 api/lumina.py:20
vastai.create@0000000a:1:during\truns/controller.py:10 api/lumina.py:20
vastai.create@0000000a:1:after\truns/controller.py:10 api/lumina.py:20
box.read@0000000b:1:before\truns/observing.py:5
box.read@0000000b:1:after\truns/observing.py:5
box.read@0000000c:1:before\truns/shipping.py:5
box.read@0000000b:2:before\truns/observing.py:5
box.read@0000000b:3:before\truns/observing.py:5
"""


def points(tmp_path):
    log = tmp_path / "edges"
    log.write_text(LOG)
    return crash_points.read(log, "vastai new")


def test_a_log_gives_each_call_sites_first_and_second_passage(tmp_path):
    found = {p.crash_at for p in points(tmp_path)}
    assert found == {
        "vastai.create@0000000a:1:before",
        "vastai.create@0000000a:1:during",
        "vastai.create@0000000a:1:after",
        "box.read@0000000b:1:before",
        "box.read@0000000b:1:after",
        "box.read@0000000b:2:before",
        "box.read@0000000c:1:before",
    }
    assert len({p.call_site for p in points(tmp_path)}) == 3


def test_a_sample_takes_every_site_before_any_twice(tmp_path):
    for seed in range(20):
        chosen = crash_points.sampled(points(tmp_path), 2, random.Random(seed))
        assert {p.site for p in chosen} == {"vastai.create", "box.read"}
    assert len(crash_points.sampled(points(tmp_path), None, random.Random(0))) == 7
