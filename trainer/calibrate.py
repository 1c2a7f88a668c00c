"""What this computer's processor sustains in training, measured with the trainer's own blocks: `python -m trainer.calibrate`.

Prints one JSON line. Each block, the head and the optimizer are timed forward and backward at two widths, the least of several runs
taken; with one thread it is processor time that counts, which others on the machine do not disturb. A few seconds.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from trainer import engine
from trainer.config import DataConfig, LayoutConfig, ModelConfig, RunConfig, TrainingConfig, count_parameters
from trainer.layers import rotary_table
from trainer.loss import Vocabulary
from trainer.mod import predictor_loss
from trainer.model import Block, RoutedBlock
from trainer.reports import peak_memory_gib

if TYPE_CHECKING:
    from collections.abc import Callable

WIDTHS = (128, 512)
SEQ_LEN = 512
TOKENS = {128: 4096, 512: 1024}
SECONDS_EACH, RUNS = 0.25, (3, 12)
SLOW_SECONDS = 2.0
"""A run that takes longer is not repeated."""
VOCAB = 4096


def main() -> None:
    """Measure in one precision and print it."""
    parser = argparse.ArgumentParser(prog="python -m trainer.calibrate", description="Measures what this processor sustains in training.")
    parser.add_argument("--precision", choices=("bf16", "fp32"), default="bf16")
    options = parser.parse_args()
    engine.start_processes("cpu")
    print(json.dumps(measure(options.precision)), flush=True)


def measure(precision: str) -> dict[str, Any]:
    """Return seconds per token of each kind of block, per logit of the head, and per parameter of the optimizer, by width."""
    dtype = engine.DTYPES[precision]
    base = peak_memory_gib("cpu")
    found: dict[str, Any] = {"precision": precision, "threads": torch.get_num_threads(), "seq_len": SEQ_LEN, "widths": list(WIDTHS)}
    for name, arch in (("dense", "dense"), ("moe", "moe")):
        found[name] = [_block(_model(arch, d), dtype, TOKENS[d]) for d in WIDTHS]
    found["tokens"] = [TOKENS[d] for d in WIDTHS]
    found["moe_few_tokens"] = SEQ_LEN
    found["moe_few_seconds"] = SEQ_LEN * _block(_model("moe", WIDTHS[0]), dtype, SEQ_LEN)
    found["routed"] = [_routed(_model("mod", d), dtype, TOKENS[d]) for d in WIDTHS]
    found["attention"] = [_attention(length, dtype) for length in (SEQ_LEN, 4 * SEQ_LEN)]
    found["head"] = [_head(d, dtype, TOKENS[d]) for d in WIDTHS]
    found["step"] = [_step(_model("dense", d), precision) for d in WIDTHS]
    found["base_gib"] = base
    return found


def _model(arch: str, d: int) -> ModelConfig:
    """Return the reference shape at width `d`: heads of 64, two query heads to a key-value head, feed-forward 2.75 d."""
    n_heads = d // 64
    d_ff = 16 * (11 * d // 64)
    return ModelConfig(
        arch=arch,  # type: ignore[arg-type]
        vocab=VOCAB if d > 256 else 512,
        d_model=d,
        n_layers=2,
        n_heads=n_heads,
        n_kv_heads=max(1, n_heads // 2),
        d_ff=d_ff,
        d_expert=d_ff // 2,
        d_predictor=max(8, d // 16),
        tie_embeddings=True,
    )


def _least(run: Callable[[], object]) -> float:
    """Return the least seconds of several runs, the first not counted."""
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    started = clock()
    run()
    first = clock() - started
    if first > SLOW_SECONDS:
        # Arithmetic that the processor has no instructions for (16 bits on older ones): what a first run costs beside is nothing to it.
        return first
    least, spent, runs = float("inf"), 0.0, 0
    while runs < RUNS[0] or (spent < SECONDS_EACH and runs < RUNS[1]):
        started = clock()
        run()
        taken = clock() - started
        least, spent, runs = min(least, taken), spent + taken, runs + 1
    return least


def _block(model: ModelConfig, dtype: torch.dtype, tokens: int) -> float:
    """Seconds per token of a plain block, forward and backward."""
    block = _drawn(Block(model), dtype)
    # Other tokens each time, as in training: experts then get other numbers of rows, for which kernels are made anew.
    inputs = iter([torch.randn(tokens, model.d_model, dtype=dtype, requires_grad=True) for _ in range(RUNS[1] + 1)])
    rotary = rotary_table(SEQ_LEN, model.d_head, model.rope_theta, torch.empty(0, dtype=dtype))
    return _least(lambda: block(next(inputs), rotary)[0].sum().backward()) / tokens


def _routed(model: ModelConfig, dtype: torch.dtype, tokens: int) -> float:
    """Seconds per token of the sequence that a depth-routed block takes beyond the block itself on the tokens that enter."""
    block = _drawn(RoutedBlock(model), dtype)
    rows = tokens // SEQ_LEN
    x = torch.randn(tokens, model.d_model, dtype=dtype, requires_grad=True)
    entering = model.capacity_tokens(SEQ_LEN)
    cos, sin = rotary_table(SEQ_LEN, model.d_head, model.rope_theta, x)

    def whole() -> None:
        y, _, choice = block(x, (cos, sin), causal=False)
        (y.sum() + predictor_loss([choice])).backward()

    inner = x.detach()[: rows * entering].clone().requires_grad_()
    alone = _least(lambda: block.block(inner, (cos[:entering], sin[:entering]))[0].sum().backward())
    return max(0.0, _least(whole) - alone) / tokens


def _drawn(module: Any, dtype: torch.dtype) -> Any:
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.02)
    return module.to(dtype)


def _attention(length: int, dtype: torch.dtype) -> float:
    """Seconds per token and head of 64 of causal attention over `length` tokens, forward and backward."""
    heads = 4
    q, k, v = (torch.randn(1, heads, length, 64, dtype=dtype, requires_grad=True) for _ in range(3))
    return _least(lambda: F.scaled_dot_product_attention(q, k, v, is_causal=True).sum().backward()) / (length * heads)


def _head(d: int, dtype: torch.dtype, tokens: int) -> float:
    """Seconds per logit of head and loss, forward and backward."""
    vocab = VOCAB if d > 256 else 512
    head = _drawn(Vocabulary(vocab, d, tied=True), dtype)
    x = torch.randn(tokens, d, dtype=dtype, requires_grad=True)
    targets = torch.randint(0, vocab, (tokens,))
    return _least(lambda: head(x, targets).backward()) / (tokens * vocab)


def _step(model: ModelConfig, precision: str) -> dict[str, float]:
    """Parameters, and seconds of an engine's whole step on one short sequence: what does not grow with tokens."""
    length = 8
    training = TrainingConfig(tokens=length, unique_tokens=length, global_batch_tokens=length, lr=1e-4, seq_len=length, precision=precision)  # type: ignore[arg-type]
    config = RunConfig("calibration", model, training, DataConfig("none"), LayoutConfig(), "cpu")
    built = engine.build(config)
    tokens = torch.randint(0, model.vocab, (1, length))

    def run() -> None:
        loss, auxiliary, _ = built(tokens, tokens)
        built.backward(loss + auxiliary)
        built.step()

    return {"parameters": float(count_parameters(model).total), "seconds": _least(run)}


if __name__ == "__main__":
    main()
