"""Wrong inputs: each ends without a traceback, with the documented exit code, naming the wrong value or the near miss.

The ledger is the same before and after.
"""

import json
import os
import sqlite3
import subprocess
from contextlib import closing, suppress

import pytest

TOUR = [
    # arguments, exit code, what the message must name
    (["plan", "debgu"], 2, ["debgu", "debug"]),
    (["plan", "b8"], 2, ["b8", "b7"]),
    (["plan", "debug", "--arch", "moo"], 2, ["moo", "mod"]),
    (["plan", "debug", "--gpu", "4091"], 2, ["4091", "4090"]),
    (["plan", "debug", "--gpu", "h10"], 2, ["h10", "H100"]),
    (["plan", "debug", "--provider", "vast"], 2, ["vast", "vastai"]),
    (["plan", "debug", "--tokens", "many"], 2, ["many", "1.5M"]),
    (["plan", "debug", "--tokens", "0"], 2, ["tokens", "0"]),
    (["plan", "debug", "--tokens", "-5M"], 2, ["tokens", "-5"]),
    (["plan", "debug", "--epochs", "0"], 2, ["--epochs", "0"]),
    (["plan", "debug", "--tokens", "1M", "--unique-tokens", "1M", "--epochs", "2"], 2, ["--epochs", "leave one"]),
    (["plan", "debug", "--global-batch", "8000"], 2, ["8,000", "2,048", "6,144"]),
    (["plan", "debug", "--set", "n_heads=3"], 2, ["3 heads", "128", "n_heads=1 or 2 or 4"]),
    (["plan", "debug", "--set", "d_modle=256"], 2, ["d_modle", "d_model"]),
    (["plan", "debug", "--set", "d_model"], 2, ["d_model", "seq_len=512"]),
    (["plan", "debug", "--set", "seq_len=long"], 2, ["seq_len", "long"]),
    (["plan", "debug", "--set", "seq_len=1"], 2, ["sequence of one token"]),
    (["plan", "debug", "--arch", "moe", "--set", "top_k=9"], 2, ["top_k=9", "8 experts"]),
    (["plan", "debug", "--arch", "mod", "--set", "mod_capacity=1.5"], 2, ["1.5", "(0, 1]"]),
    (["plan", "debug", "--set", "precision=fp8"], 2, ["fp8", "bf16"]),
    (["plan", "debug", "--set", "micro_batch=7", "--global-batch", "8192"], 2, ["micro batches of 7", "1, 2, 4"]),
    (["plan", "debug", "--config", "missing.toml"], 2, ["missing.toml"]),
    (["plan", "debug", "--data", "/no/such/text"], 2, ["/no/such/text"]),
    (["plan", "debug", "--data", ""], 2, ["--data is empty"]),
    (["plan", "debug", "--set", "source=/etc"], 2, ["--data"]),
    (["plan", "debug", "--set", "n_layers=1e12"], 2, ["n_layers", "10,000"]),
    (["plan", "debug", "--unique-tokens", "0"], 2, ["--unique-tokens is 0"]),
    (["plan", "debug", "--global-batch", "8192", "--set", "global_batch_tokens=16384"], 2, ["8192", "16384"]),
    (["plan", "debug", "--epochs", "abc"], 2, ["--epochs", "abc"]),
    (["plan", "debug", "--count", "0"], 2, ["--count is 0"]),
    (["plan", "--budget", "50", "--live", "--probe"], 2, ["--live and --probe", "--budget"]),
    (["plan", "b7", "--provider", "lambda"], 2, ["any machine at lambda", "config.toml"]),
    (["launch", "debug", "--provider", "local", "--max-cost", "1e30", "--yes"], 2, ["1e30"]),
    (["launch", "b7", "--provider", "local", "--yes"], 4, ["does not fit", "--provider local"]),
    (["launch"], 2, ["nothing has been planned", "lumina plan", "lumina launch"]),
    (["launch", "--plan", "p-nope"], 2, ["p-nope"]),
    (["launch", "debug", "--provider", "local"], 2, ["--yes"]),
    (["launch", "debug", "--provider", "local", "--arch", "all", "--yes"], 2, ["--arch all"]),
    (["launch", "debug", "--provider", "local", "--max-cost", "lots", "--yes"], 2, ["lots", "--max-cost"]),
    (["launch", "debug", "--provider", "local", "--max-cost", "0", "--yes"], 2, ["--max-cost", "0"]),
    (["launch", "debug", "--provider", "local", "--max-hours", "-1", "--yes"], 2, ["--max-hours", "-1"]),
    (["launch", "debug", "--provider", "local", "--max-cost", "0.0001", "--yes"], 4, ["cap", "--max-cost"]),
    (["launch", "b7", "--provider", "vastai", "--gpu", "4090", "--yes"], 4, ["b7", "does not fit", "RTX4090", "largest preset"]),
    (["launch", "debug", "--provider", "runpod", "--yes"], 3, ["RUNPOD_API_KEY"]),
    (["launch", "debug", "--provider", "vastai", "--yes"], 3, ["VAST_API_KEY"]),
    (["launch", "debug", "--provider", "lambda", "--yes"], 3, ["LAMBDA_API_KEY"]),
    (["results", "nothing"], 2, ["nothing"]),
    (["logs", "nothing"], 2, ["nothing"]),
    (["stop", "nothing"], 2, ["nothing"]),
    (["resume", "nothing", "--yes"], 2, ["nothing"]),
    (["report", "nothing"], 2, ["nothing"]),
    (["costs", "--by", "colour"], 2, ["colour", "model"]),
    (["plna"], 2, ["plna"]),
    (["plan", "debug", "--no-such-option"], 2, ["--no-such-option"]),
]


def flat(text):
    """Return a panel's text without its frame and line breaks."""
    return " ".join(text.replace("│", " ").split())


@pytest.mark.pain(14)
@pytest.mark.parametrize(("args", "code", "named"), TOUR, ids=[" ".join(args) for args, _, _ in TOUR])
def test_a_wrong_input_is_named_and_changes_nothing(lumina, args, code, named):
    before = [lumina.json("status"), lumina.json("costs")]
    done = lumina(*args, COLUMNS="160")
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    for part in named:
        assert part in flat(done.stderr), done.stderr
    assert [lumina.json("status"), lumina.json("costs")] == before
    assert lumina.processes() == []


@pytest.mark.parametrize(
    ("args", "kind"),
    [
        (["plan", "debgu"], "usage"),
        (["plan", "debug", "--data", "/no/such"], "data"),
        (["launch", "debug", "--provider", "runpod", "--yes"], "credentials"),
        (["launch", "debug", "--provider", "local", "--max-cost", "0.0001", "--yes"], "refused"),
        (["plan", "debug", "--no-such-option"], "usage"),
        (["plan", "debug", "--epochs", "abc"], "usage"),
    ],
)
def test_for_scripts_an_error_is_one_json_document(lumina, args, kind):
    done = lumina(*args, "--json")
    assert done.stdout == ""
    error = json.loads(done.stderr.splitlines()[-1])["error"]
    assert error["kind"] == kind
    assert set(error) == {"kind", "message", "hint"}
    assert error["message"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("bad.jsonl", '{"body": "no text here"}\n' * 500, "field 'text'"),
        ("bad.jsonl", "not json\n" * 500, "field 'text'"),
        ("bad.parquet", "PAR1 but not really", "Parquet"),
        ("short.txt", "too little", "10 bytes"),
    ],
)
def test_data_that_the_trainer_would_refuse_is_refused_before_renting(lumina, tmp_path, name, text, said):
    (tmp_path / name).write_text(text)
    done = lumina("launch", "debug", "--provider", "local", "--data", tmp_path / name, "--yes", COLUMNS="300")
    assert done.returncode == 2, done.stderr
    assert said in flat(done.stderr)
    status = lumina.json("status")
    assert (status["runs"], status["rentals"]) == ([], [])


def test_an_error_keeps_its_exit_code_under_debug(lumina):
    done = lumina("plan", "debgu", "--debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr


def test_what_was_refused_is_not_the_last_plan(lumina):
    lumina.json("plan", "debug", "--arch", "moe")
    assert lumina("launch", "debug", "--provider", "local", "--max-cost", "0.000001", "--yes").returncode == 4
    shown = lumina.json("launch", "--provider", "local", "--tokens", "1.5M", "--global-batch", "8192", "--dry-run")
    assert shown["row"]["arch"] == "moe"


def test_a_plan_means_the_same_text_from_any_folder(lumina, tmp_path, monkeypatch):
    (tmp_path / "x.txt").write_text("words and more words " * 1000)
    monkeypatch.chdir(tmp_path)
    lumina.json("plan", "debug", "--data", "x.txt", "--set", "seq_len=128", "--tokens", "32768", "--global-batch", "1024")
    monkeypatch.chdir("/")
    shown = lumina.json("launch", "--provider", "local", "--dry-run")
    assert shown["workload"]["data"] == str(tmp_path / "x.txt")


def test_a_plan_is_launched_on_the_machine_that_it_recommended(lumina):
    shown = lumina("plan", "b1", "--gpu", "a100-80gb")
    command = next(line for line in shown.stdout.splitlines() if line.startswith("next:")).removeprefix("next: lumina ").split()
    best = lumina.json("plan", "b1", "--gpu", "a100-80gb")["recommendation"]
    assert command[command.index("--gpu") + 1] == best["gpu"]
    assert (["--count", str(best["count"])] == command[-2:]) == (best["count"] > 1)


def test_fp16_is_planned_for_gpus(lumina):
    rows = lumina.json("plan", "b1", "--set", "precision=fp16")["rows"]
    assert rows
    assert {r["gpu"] for r in rows}.isdisjoint({"cpu"})


def test_a_key_is_never_shown(lumina):
    canary = "canary-5f1c0de"
    # Nobody answers there, so that no request leaves this machine.
    nowhere = dict.fromkeys(("VAST_URL", "RUNPOD_API_BASE_URL", "LAMBDA_CLOUD_BASE_URL"), "http://127.0.0.1:1")
    for provider, variable in (("runpod", "RUNPOD_API_KEY"), ("vastai", "VAST_API_KEY"), ("lambda", "LAMBDA_API_KEY")):
        done = lumina("launch", "debug", "--provider", provider, "--yes", **{variable: canary, **nowhere})
        assert done.returncode != 0
        assert canary not in done.stdout + done.stderr
        assert "Traceback" not in done.stderr
    assert lumina.json("status")["runs"] == []


# --- the ledger and the user's files ------------------------------------------------------------------------------------


def test_a_ledger_that_is_no_database_is_named_and_left_alone(lumina):
    lumina.home.mkdir()
    path = lumina.home / "ledger.db"
    path.write_text("not a database, but somebody's notes\n" * 200)
    done = lumina("status", COLUMNS="300")
    assert done.returncode == 6
    assert "ledger.db" in flat(done.stderr)
    assert "Traceback" not in done.stderr
    assert path.read_text().startswith("not a database")


def test_a_home_that_is_a_file_is_named(lumina):
    lumina.home.write_text("")
    done = lumina("plan", "debug", COLUMNS="300")
    assert done.returncode == 6
    assert str(lumina.home) in done.stderr.replace("\n", "")


@pytest.mark.skipif(os.geteuid() == 0, reason="root can write to a read-only folder")
def test_a_home_that_cannot_be_written_is_named(lumina):
    lumina.home.mkdir(mode=0o500)
    done = lumina("plan", "debug", COLUMNS="300")
    assert done.returncode == 6
    assert "Traceback" not in done.stderr


@pytest.fixture
def small_disk(lumina):
    """A disk of one mebibyte as the home of this ledger."""
    lumina.home.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", lumina.home], capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    yield lumina.home
    subprocess.run(["umount", "-l", lumina.home], check=True)


def test_a_full_disk_is_named_and_the_ledger_stays_whole(lumina, small_disk):
    kept = lumina.json("plan", "debug")["plan"]
    with suppress(OSError), (small_disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(b"\0" * 4096)
    for _ in range(6):
        # What SQLite has set aside may hold a plan or two more.
        done = lumina("plan", "debug", "--arch", "all", COLUMNS="300")
        assert done.returncode in (0, 6), done.stderr
        assert "Traceback" not in done.stderr
    assert done.returncode == 6
    assert "disk" in flat(done.stderr)
    (small_disk / "filler").unlink()
    assert lumina("plan", "debug").returncode == 0
    with closing(sqlite3.connect(lumina.home / "ledger.db")) as ledger:
        assert ledger.execute("pragma integrity_check").fetchone() == ("ok",)
        assert (kept,) in ledger.execute("select plan_id from plans").fetchall()


def test_nothing_is_rented_while_the_disk_is_too_small_for_results(lumina, small_disk):
    done = lumina("launch", "debug", "--provider", "local", "--tokens", "1.5M", "--global-batch", "8192", "--yes", COLUMNS="300")
    assert done.returncode == 6, done.stderr
    assert "64 MiB" in flat(done.stderr)
    status = lumina.json("status")
    assert (status["runs"], status["rentals"]) == ([], [])


def test_a_locked_ledger_is_named(lumina):
    lumina.json("status")
    with closing(sqlite3.connect(lumina.home / "ledger.db", isolation_level=None)) as other:
        other.execute("begin exclusive")
        done = lumina("plan", "debug", COLUMNS="300")
        other.execute("rollback")
    assert done.returncode == 6, done.stderr
    assert "locked" in flat(done.stderr) or "busy" in flat(done.stderr)
    assert lumina("plan", "debug").returncode == 0


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("[local\n", "TOML"),
        ("[locla]\n", "locla"),
        ('[local]\nusd_per_hour = "free"\n', "free"),
        ("[local]\nusd_per_hour = -1\n", "-1"),
        ('[[prices]]\nprovider = "vastai"\n', "prices"),
    ],
)
def test_a_malformed_configuration_is_named(lumina, text, named):
    lumina.home.mkdir()
    (lumina.home / "config.toml").write_text(text)
    done = lumina("plan", "debug", COLUMNS="300")
    assert done.returncode == 2, done.stderr
    assert "config.toml" in flat(done.stderr)
    assert named in flat(done.stderr)


def test_data_without_text_is_refused_and_a_near_miss_is_named(lumina, tmp_path):
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "image.bin").write_bytes(b"\0\1\2")
    done = lumina("plan", "debug", "--data", tmp_path / "corpus", COLUMNS="300")
    assert done.returncode == 2
    assert "no text" in flat(done.stderr)
    missed = lumina("plan", "debug", "--data", tmp_path / "corpsu", COLUMNS="300")
    assert missed.returncode == 2
    assert str(tmp_path / "corpus") in flat(missed.stderr)
