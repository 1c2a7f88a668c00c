"""Whole runs of the trainer: what they write, how they stop, how they go on, and what happens when something goes wrong."""

import json
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from tests.trainer.conftest import environment, metrics, tiny, torchrun, trainer
from trainer import checkpoint, shards
from trainer.config import PlanConfig, with_layout

EACH_STEP = 1e-6
"""Minutes between checkpoints: every step's is written."""

pytestmark = [pytest.mark.trains, pytest.mark.timeout(1500)]


def written(config, tmp_path, name="run.json"):
    path = tmp_path / name
    path.write_text(config.to_json())
    return path


def started(*arguments, **options):
    argv = [sys.executable, "-m", "trainer", *map(str, arguments)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), **options)


def wait_for(what, seconds=500):
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, corpus):
    """A finished run with a store, a tracker and a plan: most of what a run writes is looked at here."""
    folder = tmp_path_factory.mktemp("whole")
    config = tiny("hybrid", steps=30, checkpoint_minutes=EACH_STEP, trackers="tensorboard", keep_last=3)
    config = replace(config, plan=PlanConfig(usd_per_hour="1.50", tokens_per_second=1e9, seconds=1e-3, peak_tflops=0.01))
    done = trainer(
        "train", "--config", written(config, folder), "--out", folder / "out", "--data", corpus, "--store", f"file://{folder}/store"
    )
    return folder, config, done


def test_the_result_says_how_good_and_how_fast(whole):
    folder, config, _ = whole
    result = json.loads((folder / "out" / "result.json").read_text())
    assert result["loss_last"] < result["loss_first"] and result["perplexity"] == pytest.approx(
        2.718281828 ** result["loss_last"], rel=1e-6
    )
    index = shards.read(folder / "out" / "shards")
    # One token a byte, and one more a document that is no text.
    per_byte = index.count("validation") / index.validation_bytes
    assert result["bits_per_byte"] == pytest.approx(result["loss_last"] / math.log(2) * per_byte)
    assert 1.0 < per_byte < 1.02
    assert 0 <= result["data_wait_share"] < 1 and result["skipped_batches"] == 0 and result["seconds_to_first_step"] > 0
    assert result["tokens"] == config.training.tokens and result["versions"].keys() >= {"torch", "deepspeed", "python"}
    assert json.loads((folder / "out" / "ended.json").read_text())["code"] == 0


def test_the_heartbeat_says_where_it_will_end_and_that_it_drifts_from_its_plan(whole):
    folder, _, _ = whole
    beat = json.loads((folder / "out" / "heartbeat.json").read_text())
    assert beat["phase"] == "done" and beat["step"] == 30
    assert beat["speed_over_plan"] < 1e-3 and beat["seconds_over_plan"] > 10
    assert beat["remaining_seconds"] == 0 and beat["projected_end"].startswith("20")


def test_lines_elsewhere_than_on_a_terminal_are_plain(whole):
    lines = [line for line in whole[2].stdout.splitlines() if line.startswith("step ")]
    assert lines and "\x1b" not in whole[2].stdout
    assert all(
        word in lines[-1] for word in ("step 30/30", "loss ", "tokens/s", "utilisation ", "spent $0.", "remaining $0.00", "eta 0:00:00")
    )


def test_every_step_is_told_to_the_tracker(whole):
    from tensorboardX.proto import event_pb2

    (path,) = (whole[0] / "out" / "tensorboard").iterdir()
    raw, losses, at = path.read_bytes(), {}, 0
    while at < len(raw):
        size = int.from_bytes(raw[at : at + 8], "little")
        event = event_pb2.Event.FromString(raw[at + 12 : at + 12 + size])
        at += 12 + size + 4
        losses.update((event.step, value.simple_value) for value in event.summary.value if value.tag == "loss")
    assert losses == pytest.approx({step: figures["loss"] for step, figures in metrics(whole[0] / "out").items()}, rel=1e-6)


def test_a_machine_that_has_nothing_goes_on_from_the_store(whole, tmp_path, corpus):
    """The newest checkpoint there is cut, so the one before it is used; the last steps are the same again."""
    folder, _, _ = whole
    store = tmp_path / "store"
    shutil.copytree(folder / "store", store)
    steps = checkpoint.named(store / "checkpoints")
    assert [checkpoint.step_of(p) for p in steps] == [28, 29, 30] and (store / "model.safetensors").is_file()
    cut = steps[-1] / "rank-00000-0000.safetensors"
    cut.write_bytes(cut.read_bytes()[:-1])
    done = trainer(
        "train", "--config", folder / "run.json", "--out", tmp_path / "out", "--data", corpus, "--store", f"file://{store}", "--resume"
    )
    assert "step-000030 in file://" in done.stdout and "is not used: rank-00000-0000.safetensors has" in done.stdout
    assert "going on after step 29 of 30" in done.stdout
    before, after = metrics(folder / "out"), metrics(tmp_path / "out")
    assert {s: f["loss"] for s, f in after.items() if s > 29} == {s: f["loss"] for s, f in before.items() if s > 29}
    assert sorted(after) == list(range(1, 31)), "the metrics of the earlier machine are there as well"


def test_a_checkpoint_of_another_model_is_refused(whole, tmp_path, corpus):
    folder, config, _ = whole
    shutil.copytree(folder / "out", tmp_path / "out")
    other = written(replace(config, model=replace(config.model, d_ff=128)), tmp_path)
    done = trainer("train", "--config", other, "--out", tmp_path / "out", "--data", corpus, "--resume", check=2)
    assert "the checkpoint was made with d_ff=64, and the configuration says 128" in done.stderr


def test_prepared_shards_are_trained_on_as_they_are(tmp_path, corpus):
    """And a damaged one is named before anything is trained."""
    trainer("data", "prepare", corpus, "--to", tmp_path / "shards", "--tokenizer", "bytes", "--vocab", 300, "--seq-len", 32)
    path = written(tiny(steps=3), tmp_path)
    done = trainer("train", "--config", path, "--out", tmp_path / "out", "--data", tmp_path / "shards")
    assert "validation loss" in done.stdout and not (tmp_path / "out" / "shards").exists()
    shard = tmp_path / "shards" / "train-00000.bin"
    shard.write_bytes(shard.read_bytes()[:-10])
    done = trainer("train", "--config", path, "--out", tmp_path / "again", "--data", tmp_path / "shards", check=2)
    assert "train-00000.bin has " in done.stderr and "prepare the data again, or copy that shard once more" in done.stderr


def test_sigterm_amid_a_long_step_leaves_with_its_own_code_and_the_last_whole_step(tmp_path, corpus):
    """A step of 400 micro batches is not waited for."""
    config = tiny(steps=4)
    config = replace(config, training=replace(config.training, global_batch_tokens=400 * 32, tokens=4 * 400 * 32))
    path, out = written(with_layout(config, config.layout), tmp_path), tmp_path / "out"
    process = started("train", "--config", path, "--out", out, "--data", corpus)
    wait_for(lambda: (out / "metrics.jsonl").is_file() and (out / "metrics.jsonl").stat().st_size > 0)
    process.send_signal(signal.SIGTERM)
    _, stderr = process.communicate(timeout=500)
    assert process.returncode == 75, stderr
    kept = checkpoint.step_of(checkpoint.newest(out / "checkpoints"))
    assert f"stopped after step {kept} of 4: a checkpoint was written" in stderr
    assert json.loads((out / "ended.json").read_text()) == {"code": 75, "reason": "stopped", "message": stderr.strip().splitlines()[-1]}


def waiting_for_another(*arguments):
    """Start rank 0 of two, alone: it hangs in the rendezvous, in code that no Python signal handler interrupts."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    argv = [sys.executable, "-m", "trainer", "train", *map(str, arguments)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(**alone))


def test_a_trainer_that_hangs_is_named_by_its_own_watch(tmp_path):
    process = waiting_for_another("--config", written(tiny(steps=3, stuck_seconds=3.0), tmp_path), "--out", tmp_path / "out")
    _, stderr = process.communicate(timeout=500)
    assert process.returncode == 5, stderr
    assert "rank 0 has given no sign of life for" in stderr and "last seen at 'starting'" in stderr


def test_a_stop_that_hangs_ends_in_the_stated_time(tmp_path):
    process = waiting_for_another("--config", written(tiny(steps=3, stop_seconds=2.0), tmp_path), "--out", tmp_path / "out")
    wait_for((tmp_path / "out" / "ranks" / "rank-00000.json").is_file)
    process.send_signal(signal.SIGTERM)
    sent = time.monotonic()
    _, stderr = process.communicate(timeout=500)
    assert process.returncode == 75 and "no checkpoint could be completed within 2 s" in stderr
    assert time.monotonic() - sent < 120, "generous: the machine may be busy"


def test_a_stuck_rank_is_found_and_ends_the_run(tmp_path, corpus):
    path, out = written(tiny(steps=4000, stuck_seconds=20.0), tmp_path), tmp_path / "out"
    argv = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--shutdown-timeout=5"]
    argv += ["-m", "trainer", "train"]
    argv += ["--config", path, "--out", out, "--data", corpus]
    process = subprocess.Popen(list(map(str, argv)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    wait_for(lambda: (out / "metrics.jsonl").is_file() and len((out / "metrics.jsonl").read_bytes().splitlines()) > 3)
    pid = json.loads((out / "ranks" / "rank-00001.json").read_text())["pid"]
    os.kill(pid, signal.SIGSTOP)
    _, stderr = process.communicate(timeout=500)
    assert process.returncode != 0
    assert "rank 1 has given no sign of life for" in stderr
    assert json.loads((out / "ended.json").read_text())["code"] == 5


def test_a_loss_that_is_not_finite_stops_the_run_before_it_is_kept(tmp_path, corpus):
    path, out = written(tiny(steps=200, lr=1e18, grad_clip=1e9, checkpoint_minutes=0.0001), tmp_path), tmp_path / "out"
    done = trainer("train", "--config", path, "--out", out, "--data", corpus, check=3)
    assert "go on from the last checkpoint with a lower learning rate" in done.stderr
    for kept in checkpoint.named(out / "checkpoints"):
        from trainer import pieces

        full = pieces.weights(kept, checkpoint.state(kept)["parameters"])
        assert all(tensor.isfinite().all() for tensor in full.values()), f"{kept.name} holds what is not finite"


@pytest.mark.parametrize("stage", [0, 3])
def test_a_batch_that_spikes_is_left_out_and_counted(tmp_path, corpus, stage):
    """Documents of characters that occur nowhere else: after a while their loss is far above the others'."""
    lines = corpus.read_text().splitlines()
    lines.insert(40, json.dumps({"text": "".join(chr(0x4E00 + 7 * i) for i in range(400))}))
    (tmp_path / "mixed.jsonl").write_text("\n".join(lines))
    config = tiny("mod", steps=140, on_bad_loss="skip", spike_nats=1.5, lr=1e-2, zero_stage=stage)
    done = trainer("train", "--config", written(config, tmp_path), "--out", tmp_path / "out", "--data", tmp_path / "mixed.jsonl")
    found = metrics(tmp_path / "out")
    assert found[140]["skipped_batches"] >= 1 and "it is left out" in done.stdout
    assert json.loads((tmp_path / "out" / "result.json").read_text())["skipped_batches"] == found[140]["skipped_batches"]


def test_a_disk_that_is_full_ends_the_run_and_leaves_the_last_checkpoint(tmp_path, corpus):
    """A limit on the size of files stands for the disk."""
    config = tiny(steps=60, checkpoint_minutes=EACH_STEP)
    trainer("train", "--config", written(config, tmp_path), "--out", tmp_path / "out", "--data", corpus)
    shutil.rmtree(tmp_path / "out" / "checkpoints" / "step-000060")

    def limited():
        # Smaller than a checkpoint's pieces, larger than all else.
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))

    done = trainer(
        "train", "--config", tmp_path / "run.json", "--out", tmp_path / "out", "--data", corpus, "--resume", check=4, preexec_fn=limited
    )
    assert "cannot be written" in done.stderr
    assert checkpoint.newest(tmp_path / "out" / "checkpoints").name == "step-000059"


def test_the_micro_batch_is_the_largest_that_fits(tmp_path, corpus):
    """A limit on this process's memory stands for the GPU's."""
    config = tiny(steps=1)
    model = replace(config.model, d_model=256, n_heads=4, n_kv_heads=4, d_ff=1024, n_layers=4)
    training = replace(config.training, seq_len=128, global_batch_tokens=512 * 128, tokens=512 * 128, unique_tokens=60_000)
    config = with_layout(replace(config, model=model, training=training), replace(config.layout, micro_batch=16))
    # What the libraries take before any model differs between machines (threads' stacks and pools).
    code = "import trainer.engine, deepspeed; print('data', [l for l in open('/proc/self/status') if l.startswith('VmData')][0].split()[1])"
    imported = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment(), timeout=600, check=True)
    limit = int(imported.stdout.split()[-1]) * 1024 + int(0.8 * (1 << 30))

    def limited():
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    arguments = ("train", "--config", written(config, tmp_path), "--out", tmp_path / "out", "--data", corpus)
    done = trainer(*arguments, "--micro-batch", "auto", preexec_fn=limited)
    tried = [line.split() for line in done.stdout.splitlines() if line.startswith("micro batch")]
    fitting = [int(words[2]) for words in tried if words[3] == "fits"]
    failing = [int(words[2]) for words in tried if words[3] == "does"]
    chosen = json.loads((tmp_path / "out" / "run.json").read_text())["layout"]
    assert failing and chosen["micro_batch"] == max(fitting) == min(failing) // 2
    assert chosen["micro_batch"] * chosen["grad_accum"] == 512


def test_torchrun_starts_it_again_where_it_was(tmp_path, corpus):
    """Two ranks, one killed once: torchrun's restart goes on from the last checkpoint, and one rank alone finishes the run."""
    path, out = written(tiny(steps=60, checkpoint_minutes=0.0005), tmp_path), tmp_path / "out"
    argv = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "--max-restarts=1",
        "-m",
        "trainer",
        "train",
    ]
    argv += ["--config", path, "--out", out, "--data", corpus]
    process = subprocess.Popen(list(map(str, argv)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment())
    wait_for(lambda: (out / "checkpoints" / "step-000005").exists() or bool(checkpoint.named(out / "checkpoints")))
    os.kill(json.loads((out / "ranks" / "rank-00001.json").read_text())["pid"], signal.SIGKILL)
    stdout, stderr = process.communicate(timeout=500)
    assert process.returncode == 0, stderr[-3000:]
    assert "going on after step" in stdout
    assert sorted(metrics(out)) == list(range(1, 61))
    shutil.rmtree(checkpoint.named(out / "checkpoints")[-1])
    done = trainer("train", "--config", path, "--out", out, "--data", corpus, "--resume")
    assert "going on after step 59 of 60, written by 2 rank(s) at ZeRO stage 1" in done.stdout


def test_offload_needs_no_compiler(tmp_path, corpus):
    """Optimizer and parameters in main memory, with torch's own AdamW where DeepSpeed's cannot be built."""
    config = tiny(steps=3, zero_stage=3)
    config = replace(config, layout=replace(config.layout, offload="optimizer+parameters", checkpointing="block", checkpoint_every=2))
    path = written(config, tmp_path)
    trainer("train", "--config", path, "--out", tmp_path / "out", "--data", corpus)
    plain = written(tiny(steps=3, zero_stage=3), tmp_path, "plain.json")
    trainer("train", "--config", plain, "--out", tmp_path / "plain", "--data", corpus)
    losses = [[f["loss"] for f in metrics(tmp_path / name).values()] for name in ("out", "plain")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_compiling_falls_back_where_there_is_no_compiler(tmp_path, corpus):
    config = tiny(steps=2)
    path = written(replace(config, layout=replace(config.layout, compile="on")), tmp_path)
    argv = [sys.executable, "-m", "trainer", "train", "--config", path, "--out", tmp_path / "out", "--data", corpus]
    done = subprocess.run(
        list(map(str, argv)),
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
        env=environment(CXX="/nonexistent", PATH="/nonexistent"),
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_run_that_only_measures_ends_after_its_time_on_all_ranks_and_leaves_figures_alone(tmp_path, corpus, ranks):
    config = tiny("dense", steps=10_000, measure_seconds=0.5, checkpoint_minutes=EACH_STEP)
    config = with_layout(config, replace(config.layout, n_gpus=ranks))
    words = ("train", "--config", written(config, tmp_path), "--out", tmp_path / "out", "--data", corpus)
    if ranks == 1:
        trainer(*words)
    else:
        torchrun(ranks, "trainer", *words, module=True)
    out, told = tmp_path / "out", metrics(tmp_path / "out")
    result = json.loads((out / "result.json").read_text())
    last = max(told)
    assert 4 <= result["steps"] == last < 10_000
    # It went on until then, counted from the end of the first step, and no further than the step that passed it, or the fourth.
    assert told[last]["seconds"] - told[1]["seconds"] >= 0.5
    assert last == 4 or told[last - 1]["seconds"] - told[1]["seconds"] < 0.5
    assert result["loss_last"] > 0 and result["peak_memory_gib"] > 0
    assert json.loads((out / "ended.json").read_text())["code"] == 0
    assert not (out / "model.safetensors").exists()
    assert not list((out / "checkpoints").glob("*")) if (out / "checkpoints").exists() else True
