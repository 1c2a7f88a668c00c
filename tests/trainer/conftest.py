"""Tiny configurations and ways to start the trainer."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from trainer.config import RunConfig, check, preset, with_layout

ROOT = Path(__file__).parents[2]
PHRASE = "the a model learns from text that it has read and more of it is better than less so give it all there is"


def tiny(arch: str = "dense", *, steps: int = 20, zero_stage: int = 1, micro_batch: int = 1, n_gpus: int = 1, **training) -> RunConfig:
    """A model of about 30,000 parameters, 4 sequences of 32 bytes a step, fp32."""
    config = preset("debug", arch)
    shape = {"d_model": 32, "n_heads": 2, "n_kv_heads": 1, "d_ff": 64, "d_expert": 32, "n_experts": 4, "vocab": 300, "d_predictor": 4}
    chosen = {"precision": "fp32", "validation_tokens": 500, "lr": 3e-3, **training}
    config = replace(
        config,
        model=replace(config.model, **shape),
        training=replace(
            config.training, tokens=steps * 4 * 32, unique_tokens=steps * 4 * 32, global_batch_tokens=4 * 32, seq_len=32, **chosen
        ),
        data=replace(config.data, tokenizer="bytes"),
    )
    config = with_layout(config, replace(config.layout, zero_stage=zero_stage, micro_batch=micro_batch, n_gpus=n_gpus))
    check(config)
    return config


def text(documents: int, seed: int = 0) -> list[str]:
    """Documents of a few sentences each, all different."""
    import random

    draw = random.Random(seed)
    return [" ".join(draw.choice(PHRASE.split()) for _ in range(draw.randint(20, 60))) + f" {number}.\n" for number in range(documents)]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> Path:
    """A JSONL file of 400 documents, about 70 kB."""
    path = tmp_path_factory.mktemp("corpus") / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": t}) + "\n" for t in text(400)), encoding="utf-8")
    return path


def environment(**more: str) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")}
    path = os.pathsep.join([str(Path(sys.executable).parent), kept["PATH"]])
    return {**kept, "PATH": path, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **more}


def trainer(*arguments: object, check: int | None = 0, **options) -> subprocess.CompletedProcess[str]:
    """Run `python -m trainer ...` and require an exit code (None: any)."""
    argv = [sys.executable, "-m", "trainer", *map(str, arguments)]
    done = subprocess.run(argv, capture_output=True, text=True, env=environment(), timeout=1200, check=False, **options)
    assert check is None or done.returncode == check, f"exit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done


def torchrun(ranks: int, *arguments: object, check: int | None = 0, module: bool = False) -> subprocess.CompletedProcess[str]:
    """Run a script (or module) on several ranks of this machine by torchrun."""
    argv = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    argv += ["-m"] if module else []
    done = subprocess.run([*argv, *map(str, arguments)], capture_output=True, text=True, env=environment(), timeout=900, check=False)
    assert check is None or done.returncode == check, f"exit {done.returncode}\n{done.stdout[-3000:]}\n{done.stderr[-6000:]}"
    return done


def metrics(out: Path) -> dict[int, dict]:
    """The lines of `metrics.jsonl` by step."""
    lines = (out / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    parsed = [json.loads(line) for line in lines]
    assert len({p["step"] for p in parsed}) == len(parsed), "a step is told twice"
    return {p["step"]: p for p in parsed}
