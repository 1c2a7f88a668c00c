"""docs/sandbox.md names every fault and every switch with its default."""

import json
from dataclasses import fields
from pathlib import Path

from providers.emulator.faults import CATALOGUE
from providers.emulator.switches import Unverified

PAGE = (Path(__file__).parents[3] / "docs" / "sandbox.md").read_text(encoding="utf-8")


def test_every_fault_is_explained():
    for fault in CATALOGUE:
        assert f"| `{fault.name}` | {fault.what} |" in PAGE


def test_every_switch_is_explained_with_its_default():
    for one in fields(Unverified):
        assert f"| `{one.name}` | `{json.dumps(one.default)}` | " in PAGE
