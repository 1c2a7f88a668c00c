"""`python -m trainer study`: the four architectures against each other at about 1 M parameters and 1 M tokens.

Dense, MoE, and MoD and hybrid in both recipes. The learning rate comes from a grid of three on one seed, for each variant by itself; then
three seeds at equal tokens, at equal FLOPs and at equal time as the dense model takes. Every run has a whole schedule of its own: none is
a longer one cut off. The loss is the causal one on a fixed split. A plain loop, no engine: one thread a run, as many runs at once as
there are cores; seconds are those of the process's own work on a core, so that a busy machine changes little. Each run is kept as a
JSON file as it ends, so a study that is interrupted goes on.
"""

from __future__ import annotations

import json
import os
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing import get_context
from statistics import median
from typing import TYPE_CHECKING, Any

from trainer import shards
from trainer.config import ModelConfig, TrainingConfig, count_flops, count_parameters

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from torch import Tensor

    from trainer.batches import Windows
    from trainer.config import Arch
    from trainer.model import Model

TOKENS, BATCH, SEQ_LEN, VOCAB = 1_000_000, 16, 128, 512
SEEDS = (0, 1, 2)
LEARNING_RATES = (1e-3, 2e-3, 4e-3)
EVALUATIONS = 10
EVALUATION_WINDOWS = 256
BUDGETS = ("tokens", "flops", "seconds")


@dataclass(frozen=True)
class Variant:
    """An architecture and, with depth routing, its recipe."""

    arch: Arch
    recipe: str = ""

    @property
    def name(self) -> str:
        """What tables call it."""
        return f"{self.arch}, {self.recipe}" if self.recipe else self.arch

    def model(self) -> ModelConfig:
        """Return its shape: six blocks of width 128; two of eight half-wide experts cost what the dense block costs."""
        shape = ModelConfig(
            arch=self.arch,
            vocab=VOCAB,
            d_model=128,
            n_layers=6,
            n_heads=4,
            n_kv_heads=2,
            d_ff=352,
            tie_embeddings=True,
            d_expert=176,
            d_predictor=16,
        )
        return replace(shape, mod_every=1, mod_capacity=0.5) if self.recipe == "published" else shape


VARIANTS = (
    Variant("dense"),
    Variant("moe"),
    Variant("mod", "paper"),
    Variant("mod", "published"),
    Variant("hybrid", "paper"),
    Variant("hybrid", "published"),
)


@dataclass(frozen=True)
class Run:
    """One training run of the study."""

    variant: Variant
    tokens: int
    lr: float
    seed: int

    @property
    def key(self) -> str:
        """Name of its file."""
        return f"{self.variant.arch}-{self.variant.recipe or 'plain'}-{self.tokens}-{self.lr:g}-{self.seed}"


def study(folder: Path, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Do what is still to be done of the study, kept in `folder`, and return everything that was measured."""
    folder.mkdir(parents=True, exist_ok=True)
    _prepare(folder)
    started = time.monotonic()
    # In whole steps, so that the dense model's runs at equal FLOPs and time are those at equal tokens.
    tokens = _whole_steps(TOKENS)
    grid = {v: [Run(v, tokens, lr, SEEDS[0]) for lr in LEARNING_RATES] for v in VARIANTS}
    done = _all([run for runs in grid.values() for run in runs], folder, say)
    best = {v: min(runs, key=lambda run: _last(done[run])).lr for v, runs in grid.items()}
    equal_tokens = {v: [Run(v, tokens, best[v], seed) for seed in SEEDS] for v in VARIANTS}
    done |= _all([run for runs in equal_tokens.values() for run in runs], folder, say)
    speed = {v: median(done[run]["tokens"] / done[run]["seconds"] for run in equal_tokens[v]) for v in VARIANTS}
    flops = {v: count_flops(v.model(), SEQ_LEN).train for v in VARIANTS}
    dense = VARIANTS[0]
    amounts = {
        "flops": {v: TOKENS * flops[dense] / flops[v] for v in VARIANTS},
        "seconds": {v: TOKENS * speed[v] / speed[dense] for v in VARIANTS},
    }
    plans = {"tokens": equal_tokens}
    for budget, amount in amounts.items():
        plans[budget] = {v: [Run(v, _whole_steps(amount[v]), best[v], seed) for seed in SEEDS] for v in VARIANTS}
    done |= _all([run for plan in plans.values() for runs in plan.values() for run in runs], folder, say)
    return {
        "grid": {v.name: {f"{run.lr:g}": _last(done[run]) for run in runs} for v, runs in grid.items()},
        "lr": {v.name: best[v] for v in VARIANTS},
        "parameters": {v.name: _parameters(v) for v in VARIANTS},
        "flops_per_token": {v.name: flops[v] for v in VARIANTS},
        "tokens_per_second": {v.name: speed[v] for v in VARIANTS},
        "runs": {budget: {v.name: [done[run] for run in plan[v]] for v in VARIANTS} for budget, plan in plans.items()},
        "minutes_now": (time.monotonic() - started) / 60,
        "minutes_of_runs": sum(result["wall_seconds"] for result in done.values()) / _processes() / 60,
        "processes": _processes(),
    }


def _parameters(variant: Variant) -> dict[str, int]:
    """Return a variant's parameters, all and active."""
    counted = count_parameters(variant.model())
    return {"total": counted.total, "active": counted.active}


def _last(result: dict[str, Any]) -> float:
    return float(result["curve"][-1]["loss"])


def _whole_steps(tokens: float) -> int:
    step = BATCH * SEQ_LEN
    return max(step, round(tokens / step) * step)


def _processes() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _prepare(folder: Path) -> None:
    recipe = shards.Recipe("stdlib", vocab=VOCAB, wanted=4 * TOKENS, seq_len=SEQ_LEN)
    if shards.existing(recipe, folder) is None:
        shards.prepare(recipe, folder, folder / "tokenizer.json")


def _all(runs: Iterable[Run], folder: Path, say: Callable[[str], None]) -> dict[Run, dict[str, Any]]:
    """Return the results of runs, those that are kept already and those done now."""
    found: dict[Run, dict[str, Any]] = {}
    wanted = dict.fromkeys(runs)
    for run in wanted:
        path = folder / f"{run.key}.json"
        if path.is_file():
            found[run] = json.loads(path.read_text(encoding="utf-8"))
    missing = [run for run in wanted if run not in found]
    with ProcessPoolExecutor(_processes(), get_context("spawn")) as pool:
        working = {pool.submit(train, run, folder): run for run in missing}
        for number, finished in enumerate(as_completed(working), 1):
            run = working[finished]
            found[run] = finished.result()
            what = f"{run.variant.name}  {run.tokens:,} tokens  lr {run.lr:g}  seed {run.seed}"
            say(f"{number}/{len(missing)}  {what}: {_last(found[run]):.3f}")
    return found


# --- one run --------------------------------------------------------------------------------------------------------------


def train(run: Run, folder: Path) -> dict[str, Any]:
    """Train once, in this process, with one thread, and keep the result in `folder`."""
    import torch

    from trainer.batches import Order, Windows
    from trainer.engine import parameter_groups
    from trainer.model import Model, initialise
    from trainer.schedule import learning_rate

    torch.set_num_threads(1)
    begun = time.monotonic()
    training = TrainingConfig(
        tokens=run.tokens,
        unique_tokens=run.tokens,
        global_batch_tokens=BATCH * SEQ_LEN,
        lr=run.lr,
        seq_len=SEQ_LEN,
        precision="fp32",
        seed=run.seed,
    )
    index = shards.read(folder)
    windows, held_out = (Windows(folder, index, split, SEQ_LEN) for split in ("train", "validation"))
    order, config = Order(len(windows), run.seed), run.variant.model()
    model = Model(config)
    initialise(model, run.seed)
    optimizer = torch.optim.AdamW(parameter_groups(model, training.weight_decay), betas=(training.beta1, training.beta2), fused=True)
    per_token, seconds, curve = count_flops(config, SEQ_LEN).train, 0.0, []
    turns = {round((i + 1) * training.steps / EVALUATIONS) for i in range(EVALUATIONS)}
    for step in range(training.steps):
        started = time.process_time()
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(training, step)
        inputs, targets = windows.batch([order[step * BATCH + row] for row in range(BATCH)])
        _one_step(model, optimizer, inputs, targets, training.grad_clip)
        seconds += time.process_time() - started
        if step + 1 in turns:
            tokens = (step + 1) * BATCH * SEQ_LEN
            curve.append({"tokens": tokens, "flops": tokens * per_token, "seconds": seconds, "loss": _loss(model, held_out, causal=True)})
    result = {
        **{"arch": run.variant.arch, "recipe": run.variant.recipe, "lr": run.lr, "seed": run.seed, "tokens": curve[-1]["tokens"]},
        **{"seconds": seconds, "wall_seconds": time.monotonic() - begun, "curve": curve},
        "loss_by_top_k": _loss(model, held_out, causal=False) if config.has_depth_routing else None,
    }
    partial_file = folder / f".{run.key}.part"
    partial_file.write_text(json.dumps(result), encoding="utf-8")
    partial_file.replace(folder / f"{run.key}.json")
    return result


def _one_step(model: Model, optimizer: Any, inputs: Tensor, targets: Tensor, clip: float) -> None:
    import torch

    loss, auxiliary, _ = model(inputs, targets)
    (loss + auxiliary).backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
    optimizer.zero_grad()


def _loss(model: Model, held_out: Windows, *, causal: bool) -> float:
    import torch

    numbers = range(min(EVALUATION_WINDOWS, len(held_out)))
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(numbers), BATCH):
            part = list(numbers[start : start + BATCH])
            inputs, targets = held_out.batch(part)
            total += float(model(inputs, targets, causal=causal)[0]) * len(part)
    return total / len(numbers)


def main(folder: Path, page: Path) -> None:
    """Do the study and write its page."""
    from trainer.study_page import write

    write(study(folder, partial(print, flush=True)), page)
