"""How every verb answers: its last line says what to do next, and where nobody looks at a terminal it is plain text that fits."""

import re

import pytest
import typer
from typer.testing import CliRunner

from lumina_cloud.cli import output
from lumina_cloud.cli.app import app
from lumina_cloud.core import commands
from lumina_cloud.core.errors import UsageError
from tests.web import shelf

VERBS = (
    *("status", "status --all", "results last", "costs", "costs --by month", "budget", "prices", "accuracy", "config"),
    *("plan debug --arch all", "plan b7 --arch mod", "plan --budget 20 --deadline 24h", "plan b7 --arch dense --gpu 4090"),
    *("launch debug --provider local --max-cost 0.10 --tokens 200k --global-batch 8192 --dry-run", "audit", "sandbox faults"),
    *("compare debug-dense-1 debug200m-dense-2", "prune --dry-run", "prune --older-than 9999", "ledger verify", "ledger backup"),
    *("report last --out page.html", "data check notes.txt --model debug --tokens 10k", "jobfile --out job.yaml"),
    *("status --watch", "ledger export books.jsonl"),
)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A home with some months of runs in it, and a plan."""
    made = tmp_path_factory.mktemp("manner")
    shelf.fill(made / "home")
    (made / "notes.txt").write_text("One sentence after another. " * 4000)
    with pytest.MonkeyPatch.context() as patch:
        typed(made, patch, "plan debug --arch mod")
    return made


def typed(home, monkeypatch, words, **environment):
    for name, value in {"LUMINA_HOME": str(home / "home"), "HOME": str(home), "NO_COLOR": "1", **environment}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(home)
    done = CliRunner().invoke(app, words.split())
    assert done.exit_code == (1 if words == "audit" else 0), done.output
    return done.output


@pytest.mark.parametrize("words", VERBS)
def test_the_last_line_says_what_to_do_next(home, monkeypatch, words):
    said = typed(home, monkeypatch, words)
    last = said.rstrip().splitlines()[-1]
    assert last.startswith("next: "), last
    assert "\x1b" not in said


@pytest.mark.parametrize("columns", [80, 160])
@pytest.mark.parametrize(
    "words",
    [words for words in VERBS if words.split()[0] in ("status", "results", "costs", "plan", "budget", "accuracy", "compare", "prices")],
)
def test_it_fits_the_terminal(home, monkeypatch, words, columns):
    said = typed(home, monkeypatch, words, COLUMNS=str(columns))
    # What is to be copied is one line, however long.
    shown = [line.rstrip() for line in said.splitlines() if not line.startswith("next: ")]
    assert max(map(len, shown), default=0) <= columns
    assert not [line for line in shown if "…" in line], "a cell is cut off"
    if words in ("status", "compare debug-dense-1 debug200m-dense-2"):
        assert [line for line in shown if "debug200m-dense-2 " in line and "succeeded " in line]


def test_a_colour_is_nowhere_the_only_sign(home, monkeypatch):
    """States are words; what fits and what does not is said."""
    assert re.search(r"succeeded|failed", typed(home, monkeypatch, "status"))
    assert re.search(r"\bno\b", typed(home, monkeypatch, "plan b7 --arch dense --gpu 4090", COLUMNS="80"))


@pytest.mark.parametrize(
    "words",
    [
        "plan b8",
        "plan debug --gpu 4091",
        "results nothing",
        "costs --by colour",
        "launch debug --provider local",
        "budget many",
        "compare nobody",
        "status --alll",
    ],
)
def test_an_error_says_what_to_type(home, monkeypatch, words):
    for name, value in {"LUMINA_HOME": str(home / "home"), "HOME": str(home), "NO_COLOR": "1"}.items():
        monkeypatch.setenv(name, value)
    done = CliRunner().invoke(app, words.split())
    assert done.exit_code == 2
    assert re.search(r"did you mean|lumina |e\.g\.|add --|known:|leave out|Did you mean|Possible options|--help", done.output), done.output


@pytest.mark.parametrize(
    ("line", "typed"),
    [
        ("next: lumina stop last", "next: lumina stop last --sandbox"),
        ("next: lumina status    or    lumina logs -f last", "next: lumina status --sandbox    or    lumina logs -f last --sandbox"),
        ("next: lumina offers    looks again", "next: lumina offers --sandbox    looks again"),
        ("next: lumina status, then lumina costs --check", "next: lumina status --sandbox, then lumina costs --check --sandbox"),
        ("next: the same without --dry-run", "next: the same without --dry-run"),
        (
            "next: lumina sandbox up, then lumina plan debug --live --sandbox",
            "next: lumina sandbox up, then lumina plan debug --live --sandbox",
        ),
        ("  lumina stop debug-mod-ab       ends it", "  lumina stop --sandbox debug-mod-ab       ends it"),
        ("lumina status lists the runs", "lumina status --sandbox lists the runs"),
        ("lumina ledger restore x.db   puts it back", "lumina ledger restore --sandbox x.db   puts it back"),
        ("lumina resume a goes on; lumina stop a ends it", "lumina resume --sandbox a goes on; lumina stop --sandbox a ends it"),
        ("lumina plan --help", "lumina plan --help"),
        ("any lumina command tries again", "any lumina command tries again"),
    ],
)
def test_what_a_rehearsal_says_to_type_next_is_of_the_rehearsal(monkeypatch, line, typed):
    """Else a line that is copied from it would stop the last real run."""
    monkeypatch.setattr("sys.argv", ["lumina", "status", "--sandbox"])
    assert output.typed_here(line) == typed
    for real in (["lumina", "status"], ["lumina", "ssh", "last", "--", "ls", "--sandbox"]):
        monkeypatch.setattr("sys.argv", real)
        assert output.typed_here(line) == line


def test_an_error_s_commands_are_of_the_world_that_it_came_from(home, monkeypatch, capsys):
    error = UsageError("no run 'x'", "lumina status lists the runs\nlumina stop last")
    for words, said in (
        (["lumina", "logs", "x", "--sandbox"], "lumina stop --sandbox last"),
        (["lumina", "logs", "x"], "lumina stop last"),
    ):
        monkeypatch.setattr("sys.argv", words)
        for as_json in (True, False):
            output.fail(error, as_json=as_json)
            assert said in capsys.readouterr().err


def test_every_verb_but_the_sandbox_has_two_worlds():
    """A verb that is missing there would be named without --sandbox."""
    assert set(typer.main.get_command(app).commands) == commands.VERBS | {"sandbox"}
    groups = {name for name, verb in typer.main.get_command(app).commands.items() if hasattr(verb, "commands")}
    assert groups == {*commands.GROUPS, "sandbox"}
