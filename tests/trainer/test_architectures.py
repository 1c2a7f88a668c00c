"""docs/architectures.md is what its command prints, and what it says about memory is right."""

from __future__ import annotations

from pathlib import Path

from tests.trainer.shapes import small
from trainer.architectures import kept_bytes, page
from trainer.config import preset

ROOT = Path(__file__).parents[2]


def test_the_document_is_up_to_date():
    assert (ROOT / "docs" / "architectures.md").read_text(encoding="utf-8") == page(), (
        "python -m trainer.architectures > docs/architectures.md"
    )


def test_every_kept_byte_of_a_dense_block_is_accounted_for():
    """Two norms' inputs and outputs, queries, keys, values, the heads' output, gate and up, their product, and small change."""
    config = small("dense", n_layers=3)
    per_block = kept_bytes(config, 256) - kept_bytes(small("dense", n_layers=2), 256)
    d, kv = config.d_model, config.d_kv
    expected = 2 * (2 * d + 2 * d + d + d + 2 * kv + 3 * config.d_ff)
    assert 0.95 * expected < per_block < 1.25 * expected


def test_skipping_tokens_keeps_less():
    dense, mod = (kept_bytes(preset("b1", arch).model) for arch in ("dense", "mod"))
    assert mod < 0.75 * dense
