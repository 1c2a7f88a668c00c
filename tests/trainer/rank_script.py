"""Started by `test_ranks.py`, alone and under torchrun: every architecture at every ZeRO stage, and checkpoints between them.

Each case does six steps of four micro batches in all, from a fixed stream of random tokens, and saves after three.
"""

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist

from tests.trainer.conftest import tiny
from trainer import checkpoint, engine, pieces
from trainer.batches import positions

STEPS, SAVED = 6, 3
CASES = [(arch, stage, "fp32") for arch in ("dense", "moe", "mod", "hybrid") for stage in (0, 1, 2, 3)]
CASES += [("dense", 2, "bf16"), ("hybrid", 3, "bf16")]


def batch(config, places):
    rows = [torch.randint(0, config.model.vocab, (33,), generator=torch.Generator().manual_seed(1000 + place)) for place in places]
    tokens = torch.stack(rows)
    return tokens[:, :-1], tokens[:, 1:]


def losses(config, ds, rank, world, steps):
    layout, out = config.layout, []
    for step in steps:
        total = torch.zeros(())
        for places in positions(step, rank, world=world, micro_batch=layout.micro_batch, grad_accum=layout.grad_accum):
            loss, auxiliary, *_ = ds(*batch(config, places))
            ds.backward(loss + auxiliary)
            ds.step()
            total += loss.detach().float() / layout.grad_accum
        if world > 1:
            dist.all_reduce(total)
        out.append(float(total) / world)
    return out


def case_name(arch, stage, precision):
    return f"{arch}-{stage}-{precision}"


def main(folder: Path, saved_by: Path | None):
    rank, world = engine.start_processes("cpu")
    place, found = checkpoint.Place(rank, world), {}
    for arch, stage, precision in CASES:
        config = tiny(arch, zero_stage=stage, n_gpus=world, precision=precision)
        name = case_name(arch, stage, precision)
        ds = engine.build(config)
        first = losses(config, ds, rank, world, range(SAVED))
        writer = checkpoint.Writer(folder / name, place, keep=2)
        state = {"optimizer_steps": pieces.optimizer_steps(ds), "parameters": pieces.shapes(ds), "format": checkpoint.FORMAT}
        writer.begin(SAVED, pieces.snapshot(ds, rank, world), state, background=stage % 2 == 0)
        found[name] = first + losses(config, ds, rank, world, range(SAVED, STEPS))
        writer.finish()
        checkpoint.barrier()
        ds.destroy()
        # Resumed from the other number of ranks' checkpoint, else from our own; and, alone, at the next stage.
        for label, source, next_stage in (
            ("resumed", (saved_by or folder) / name, stage),
            ("resumed at another stage", (saved_by or folder) / name, (1 if precision == "bf16" else 0) if stage == 3 else stage + 1),
        ):
            if label != "resumed" and world > 1:
                continue
            again = replace(config, layout=replace(config.layout, zero_stage=next_stage))
            path = checkpoint.newest(source)
            state = checkpoint.state(path)
            ds = engine.build(again, pieces.weights(path, state["parameters"]))
            pieces.restore(ds, path, state["optimizer_steps"], rank=rank, same_layout=False)
            found[f"{name} {label}"] = losses(again, ds, rank, world, range(SAVED, STEPS))
            ds.destroy()
    if rank == 0:
        (folder / "losses.json").write_text(json.dumps(found))
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else None)
