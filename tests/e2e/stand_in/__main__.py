"""`python -m trainer train --config run.json --out out [--data D] [--resume]`: a step takes a moment, a loss falls."""

import argparse
import hashlib
import json
import math
import os
import shutil
import signal
import sys
import time
from pathlib import Path

STEP_SECONDS = 0.1


def main():
    parser = argparse.ArgumentParser()
    verbs = parser.add_subparsers(dest="verb")
    train = verbs.add_parser("train")
    train.add_argument("--config", type=Path)
    train.add_argument("--out", type=Path)
    train.add_argument("--data")
    train.add_argument("--resume", action="store_true")
    options = parser.parse_args()
    config = json.loads(options.config.read_text())
    out, training = options.out, config["training"]
    steps = max(1, round(training["tokens"] / training["global_batch_tokens"]))
    asked = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
    step = newest(out / "checkpoints") if options.resume else 0
    print(f"going on after step {step}" if step else "starting", flush=True)
    print(f"began {time.time():.3f} {step}", flush=True)
    if os.environ.get("HANG_AFTER") or (Path("data") / "hang").exists():
        time.sleep(3600)
    most = training.get("measure_seconds")
    while step < steps and not (most and step >= 4 and (step - 1) * STEP_SECONDS >= most):
        step += 1
        time.sleep(STEP_SECONDS)
        loss = loss_of(step)
        figures = {"step": step, "tokens": step * training["global_batch_tokens"], "loss": loss, "tokens_per_second": 9000.0}
        with (out / "metrics.jsonl").open("a") as metrics:
            metrics.write(json.dumps({**figures, "lr": 1e-3, "seconds": step * STEP_SECONDS}) + "\n")
        write(out / "heartbeat.json", {"phase": "training", "steps": steps, **figures})
        if not most and (asked or step % max(1, steps // 10) == 0):
            save(out / "checkpoints", step)
        if asked:
            sys.exit(75)
    if not most:
        (out / "model.safetensors").write_bytes(b"weights" * 1000)
    result = {
        "loss_first": loss_of(0),
        "loss_last": loss_of(steps),
        "perplexity": math.exp(loss_of(steps)),
        "seconds": steps * STEP_SECONDS,
    }
    write(
        out / "result.json",
        {**result, "tokens": steps * training["global_batch_tokens"], "device": "stand-in", "peak_memory_gib": 3.0, "steps": step},
    )
    write(out / "heartbeat.json", {"phase": "done", "step": steps, "steps": steps})


def loss_of(step):
    return 6.0 * math.exp(-step / 50)


def newest(folder):
    return max((int(p.name.removeprefix("step-")) for p in folder.glob("step-*")), default=0) if folder.is_dir() else 0


def save(folder, step):
    partial, target = folder / f".step-{step:06d}.part", folder / f"step-{step:06d}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    (partial / "state.bin").write_bytes(str(step).encode() * 5000)
    data = (partial / "state.bin").read_bytes()
    listed = [{"path": "state.bin", "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}]
    (partial / "manifest.json").write_text(json.dumps(listed))
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    for old in sorted(folder.glob("step-*"))[:-2]:
        shutil.rmtree(old)


def write(path, content):
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(content))
    part.replace(path)


if __name__ == "__main__":
    main()
