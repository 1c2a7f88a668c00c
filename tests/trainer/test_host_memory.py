"""Memory is this process's own: not what the one that started it held."""

from __future__ import annotations

import subprocess
import sys

from trainer.host_memory import highest_resident_bytes, resident_bytes


def test_the_peak_outlives_what_is_given_back():
    before = resident_bytes()
    held = b"\1" * (64 << 20)
    peak = highest_resident_bytes()
    del held
    assert peak - before > 60 << 20
    # The kernel counts in batches of pages.
    assert highest_resident_bytes() > peak - (1 << 20)
    assert resident_bytes() < peak


def test_a_child_does_not_inherit_its_parents_peak():
    held = b"\1" * (256 << 20)
    script = "from trainer.host_memory import highest_resident_bytes; print(highest_resident_bytes())"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(done.stdout) < len(held) / 2
