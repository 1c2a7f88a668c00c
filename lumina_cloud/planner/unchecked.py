"""What of a table of claims could not be checked, and why: silence about it would read as consent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lumina_cloud.planner.audit import known_gpu

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lumina_cloud.planner.claims import Claim, Claims


def unchecked(claims: Claims) -> tuple[str, ...]:
    """Return one line for each claim that nothing was there to hold against, in the table's order."""
    return tuple(note for claim in claims.rows for note in _of_row(claim))


def _of_row(c: Claim) -> Iterator[str]:
    gpu = known_gpu(c.gpu)
    if c.gpu is not None and c.tokens_per_second is not None:
        if gpu is None:
            yield f'{c.row}: GPU "{c.gpu}" is not known: its speed is not checked'
        elif gpu.bf16_tflops is None:
            yield f"{c.row}: no peak in bf16 is known of {gpu.name}: its speed is not checked"
        elif c.active_parameters is None:
            yield f"{c.row}: no active parameters are stated: its speed is not held against the {gpu.name}'s peak"
    if c.batch_tokens is not None and c.seq_len is None:
        yield f"{c.row}: no sequence length is stated: its batch is not checked"
    for word in c.best_in:
        yield f'{c.row}: best in "{word}" does not say by which figure: it is not checked'
