"""Makes docs/tour-terminal.md and its pictures, every screen of the command line, from real output: `make pictures`.

Each command runs as a person types it and what it prints is drawn as an SVG by rich. Runs, prices and money are those of a made-up
ledger (tests/web/shelf.py) or of the sandbox, where a stand-in trains; a run and a sweep are trained in earnest on this computer, in some
minutes; plans are the planner's.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import DEFAULT_TERMINAL_THEME, MONOKAI, TerminalTheme
from rich.text import Text

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))

from lumina_cloud.api import watching  # noqa: E402  # the tests' folder has to be found first
from lumina_cloud.api.lumina import Lumina  # noqa: E402
from lumina_cloud.cli import watching as live  # noqa: E402
from lumina_cloud.core import money  # noqa: E402
from lumina_cloud.core.clock import SystemClock  # noqa: E402
from lumina_cloud.ledger import ChargeRecord, Ledger, MetricRecord  # noqa: E402
from tests.web import shelf  # noqa: E402

FOLDER = ROOT / "docs" / "pictures"
TARGET = ROOT / "docs" / "tour-terminal.md"
STAND_IN = ROOT / "tests" / "e2e" / "stand_in"

# Rich's frame without its fonts, which a reader's browser would fetch from another host.
FRAME = re.sub(r"@font-face \{\{.*?\n    \}\}\n", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL).replace("Fira Code", "Menlo, Consolas")


THEMES: dict[str, TerminalTheme] = {"": MONOKAI, "-light": DEFAULT_TERMINAL_THEME}
"""By the ending of a picture's name: a dark terminal and a light one. The page shows the one that its reader's browser is in."""


@dataclass(frozen=True)
class Screen:
    """One screen: what is typed, on how many columns, where, and what is said of it."""

    name: str
    title: str
    command: str
    text: str
    columns: int = 100
    drawn: bool = True
    """False for what is only typed, so that the next ones have something to show."""
    real: bool = False
    """In a ledger whose runs the trainer itself trains, on this computer."""


TINY = "--tokens 160k --global-batch 8192"
LOCAL = "lumina launch debug --arch mod --provider local --tokens 400k --global-batch 8192 --max-cost 0.10 --follow --yes"
FILES = {
    "sweep.toml": """name = "first-look"
budget = "0.05"
concurrency = 1
provider = "local"
tokens = "65536"
global_batch = "2048"

[grid]
model = ["debug"]
arch = ["dense", "mod"]
lr = [0.001, 0.0003]

[set]
seq_len = 256

[early_stopping]
rungs = [0.5]
keep = 0.5
""",
    "notes.txt": "One sentence after another makes a text that is long enough. " * 4000,
}
"""What lies in the folder in which commands are typed."""
SCREENS = (
    Screen("help", "The first page", "lumina --help", "Verbs by what they are for.", 80),
    Screen("init", "Setting up", "lumina init --yes --where vastai --cap 20", "It asks at a terminal. A key is never written.", 120),
    Screen("doctor", "What is missing", "lumina doctor", "Keys, SSH, disk, clock, each with what to do about it.", 130),
    Screen("plan-b7-mod", "A plan", "lumina plan b7 --arch mod", "The answer first; the published figures with the checks they fail.", 118),
    Screen("plan-narrow", "The same on 80 columns", "lumina plan b7 --arch mod", "Fewer figures, and none cut off.", 80),
    Screen("plan-wide", "The same on 160 columns", "lumina plan b7 --arch mod", "", 160),
    Screen("explain", "Derived line by line", "lumina plan debug --provider local --explain", "To check it by hand.", 160, real=True),
    Screen("plan-misfit", "What does not fit", "lumina plan b7 --arch dense --gpu 4090", "Which changes would make it fit.", 120),
    Screen("plan-budget", "Asked backwards", "lumina plan --budget 20 --deadline 24h", "The best model for a sum and a day.", 120),
    Screen("up", "", "lumina sandbox up", "", drawn=False),
    Screen("sandbox", "The sandbox", "lumina sandbox status", "Three clouds on this computer, to rehearse everything.", 120),
    Screen("faults", "What can go wrong there", "lumina sandbox faults", "Each is a name to give a cloud, and see what happens.", 120),
    Screen("offers", "The market", "lumina offers --gpu 4090 --sandbox", "What can be rented now, all-in.", 120),
    Screen("live", "", f"lumina plan debug --arch mod --gpu 4090 {TINY} --live --sandbox", "", drawn=False),
    Screen(
        "dry-run", "What would be rented", "lumina launch --provider vastai --gpu 4090 --max-cost 2 --dry-run --sandbox",
        "The machine, its price, and the most that it can cost: what `launch` shows before it asks.", 110,
    ),
    Screen(
        "launch", "A run", "lumina launch --provider vastai --gpu 4090 --max-cost 2 --follow --yes --sandbox",
        "Rented, trained, brought home, switched off. On a terminal the lines of progress are one that moves.", 120,
    ),
    Screen("rehearsed", "What came of it", "lumina results last --sandbox", "Planned beside actual, and the files."),
    Screen("check", "The provider's bill", "lumina costs --check --sandbox", "Line by line against the ledger.", 120),
    Screen(
        "probe", "Measured first", f"lumina plan debug --arch mod --provider vastai --gpu 4090 {TINY} --probe --yes --sandbox",
        "A few real steps on the recommended machine, for cents. A rehearsal's machine is this computer, so its word does not count.", 130,
    ),
    Screen("reconcile", "Nothing is left running", "lumina reconcile --sandbox", "What is rented against what the ledger knows.", 110),
    Screen("down", "", "lumina sandbox down", "", drawn=False),
    Screen("watch", "All runs, live", "lumina status --watch", "Loss and spending as they go; Ctrl-C ends the screen, and no run.", 160),
    Screen("watch-narrow", "The same on 80 columns", "lumina status --watch", "", 80),
    Screen("status", "All runs", "lumina status", "What runs, what ran, what it cost.", 130),
    Screen("status-narrow", "The same on 80 columns", "lumina status", "", 80),
    Screen("compare", "Runs side by side", "lumina compare debug-dense-1 debug200m-dense-2", "", 160),
    Screen("compare-narrow", "The same on 80 columns", "lumina compare debug-dense-1 debug200m-dense-2", "", 80),
    Screen("costs", "Money", "lumina costs --by month", "What trained, what was lost, where the month is going.", 120),
    Screen("costs-narrow", "The same on 80 columns", "lumina costs --by month", "", 80),
    Screen("budget", "Caps", "lumina budget", "What may be spent, is spent, and is promised.", 90),
    Screen("accuracy", "Plan and actual", "lumina accuracy", "How finished runs turned out against their plans.", 120),
    Screen("prices", "Prices", "lumina prices 4090", "The price book, and what the markets asked.", 120),
    Screen("audit", "Claims", "lumina audit", "The published table against arithmetic and physics; any table of yours too.", 120),
    Screen("train", "A training on this computer", LOCAL, "Nothing is rented; the trainer is that of rented machines.", 120, real=True),
    Screen("results", "What came of it", "lumina results last", "Planned beside actual, routing, files, a sample.", real=True),
    Screen("results-narrow", "The same on 80 columns", "lumina results last", "", 80, real=True),
    Screen("logs", "Its log", "lumina logs last", "What the trainer printed; `-f` follows it.", 120, real=True),
    Screen("weights", "Its weights", "lumina weights last --to my-model", "For `transformers`, with a model card.", 120, real=True),
    Screen("sweep-plan", "A sweep, planned", "lumina sweep sweep.toml --dry-run", "Each run, and what it may cost.", 110, real=True),
    Screen("sweep", "The same, run", "lumina sweep sweep.toml --yes", "The poorer half is stopped half way.", 110, real=True),
    Screen("sample", "What it writes", 'lumina sample debug-mod "def " --max-new-tokens 60', "", 100, real=True),
    Screen("probe-here", "Measured first, here", "lumina plan debug --arch mod --provider local --probe", "", 120, real=True),
    Screen("jobfile", "For another engine", "lumina jobfile --for slurm", "The last plan as a job of Slurm.", 110, real=True),
    Screen("report", "A report", "lumina report last", "One file to send.", 100, real=True),
    Screen("data", "A text", "lumina data check notes.txt --model debug", "Tokens and epochs, before anything is rented.", real=True),
    Screen("ledger", "The books", "lumina ledger verify", "Every page, reference, seal and sum.", 120, real=True),
    Screen("ledger-backup", "A copy of them", "lumina ledger backup books.backup", "", 100, real=True),
    Screen("ledger-export", "As text", "lumina ledger export books.jsonl", "", 100, real=True),
    Screen("ledger-restore", "Put back", "lumina ledger restore books.backup --yes", "The ledger that was there is kept.", 120, real=True),
    Screen("ledger-import", "And in again", "lumina ledger import books.jsonl", "All of it, or nothing.", 100, real=True),
    Screen("prune", "Room on the disk", "lumina prune --older-than 0 --dry-run", "What runs cost and did is kept.", 100, real=True),
    Screen("config", "What is set", "lumina config", "Each value with where it comes from.", 150, real=True),
    Screen("verb-help", "Help on a verb", "lumina costs --help", "", 100),
    Screen("error", "An error", "lumina plan b8 --gpu 4091", "What was wrong, with which value, and what to type.", 80),
    Screen("error-option", "A word of another tool's", "lumina plan b1 --max-cost 5", "", 80),
    Screen("error-key", "No key", "lumina launch b1 --max-cost 50", "Where one is got and put, and what needs none.", 130, real=True),
    Screen("error-sandbox", "A rehearsal without a sandbox", "lumina offers --sandbox", "What to type is of the rehearsal, too.", 80),
)  # fmt: skip

HEAD = """# The terminal

<!-- Written by scripts/pictures.py (make pictures). -->

Every screen of the command line, from real output. Runs, prices and money in these pictures are made up, or the sandbox's, but for those of
the training and the sweep on this computer. Each is drawn on a dark and on a light terminal; the site shows the one that suits it.
Where nobody looks at a terminal, and under `NO_COLOR`, the same is plain text; `--json` has it for scripts. The [pages](tour.md) show
the same in a browser.
"""


def run(screen: Screen, home: Path) -> str:
    """Run a screen's command; return what it printed, in colour."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LUMINA_", "RUNPOD_", "VAST_", "LAMBDA_", "NO_COLOR"))}
    own = {"LUMINA_HOME": str(home), "HOME": str(home.parent), "PYTHONWARNINGS": "ignore"}
    own |= {} if screen.real else {"LUMINA_TRAINER": str(STAND_IN)}
    look = {"COLUMNS": str(screen.columns), "FORCE_COLOR": "1", "TERM": "xterm-256color"}
    argv = [str(Path(sys.executable).with_name("lumina")), *shlex.split(screen.command)[1:]]
    done = subprocess.run(
        argv,
        env={**kept, **own, **look},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        cwd=home.parent / "work",
    )
    # A doctor that misses keys, findings of an audit and errors have exit codes of their own.
    folder = str(home.parent)
    # A cell of a table stays as wide as it was.
    padded = re.sub(
        re.escape(folder) + r"([^\s\x1b]*)(?=(?:\x1b\[[\d;]*m)?  )", lambda f: f"~{f[1]}" + " " * (len(folder) - 1), done.stdout
    )
    return padded.replace(folder, "~")


def set_going(home: Path) -> None:
    """Add two runs that train, like two that had trained, to a ledger."""
    ledger = Ledger.open(home, SystemClock())
    now = SystemClock().now()
    for name, like, hours, share in (("b1-mod-k7wd", "debug200m-moe-12", 1.6, 0.62), ("debug-hybrid-p3xa", "debug-mod-5", 0.5, 0.21)):
        run, rental, begun = ledger.run(like), ledger.rentals(like)[0], now - timedelta(hours=hours)
        assert run is not None
        metrics = ledger.metrics(like)
        point = metrics[int(len(metrics) * share)].data
        going = replace(
            run, run_id=name, created_at=begun, started_at=begun, ended_at=None, state="training", reason="", result={},
            progress={**run.progress, **point, "steps": run.progress["steps"]},
        )  # fmt: skip
        with ledger.transaction() as tx:
            tx.add_run(going)
            at = {"intended_at": begun, "ready_at": begun, "training_at": begun, "ended_at": None, "work_ended_at": None}
            tx.add_rental(replace(rental, rental_id=f"{name}-1", run_id=name, tag=f"lumina-{name}-1", state="ready", ending="", **at))
            usd = money.for_time(rental.usd_per_hour, now - begun)
            tx.put_charge(ChargeRecord(name, name, f"{name}-1", run.provider, usd, rental.usd_per_hour, begun, now, "metered"))
            tx.put_metrics(name, [MetricRecord(name, m.step, m.data) for m in metrics[: int(len(metrics) * share)]])
    ledger.close()


def watched(home: Path) -> tuple[object, ...]:
    """Return what the live screen is made of, of a ledger in which two runs go on."""
    os.environ["LUMINA_HOME"] = str(home)
    with Lumina(settles=False) as lumina:
        document = lumina.status()
        runs = watching.shown(document)
        return document, runs, lumina.pulses([one.run for one in runs]), lumina.clock.now()


def draw(screen: Screen, shown: object, theme: TerminalTheme) -> str:
    """Return the picture of what a command printed, on a terminal of such colours."""
    with Path(os.devnull).open("w") as nowhere:
        console = Console(record=True, width=screen.columns, file=nowhere, force_terminal=True, color_system="truecolor")
        console.print(Text(f"$ {screen.command}", style="bold"))
        console.print(shown)
        return console.export_svg(title="lumina", theme=theme, unique_id=f"lumina-{screen.name}", code_format=FRAME)


def _shown(screen: Screen) -> str:
    """Return what shows a screen's picture in the colours that its reader has chosen: mkdocs-material hides the other one."""
    names = {ending: f"pictures/{screen.name}{ending}.svg" for ending in THEMES}
    return f"![{screen.command}]({names['']}#only-dark)\n![{screen.command}]({names['-light']}#only-light)"


def main() -> None:
    """Draw all screens and write the page about them; with names, draw those alone."""
    asked = set(sys.argv[1:])
    with tempfile.TemporaryDirectory(prefix="lumina-pictures-") as folder:
        home, moving, real = (Path(folder) / name for name in ("home", "moving", "real"))
        (Path(folder) / "work").mkdir()
        for name, text in FILES.items():
            (Path(folder) / "work" / name).write_text(text, encoding="utf-8")
        shelf.fill(home)
        shelf.fill(moving)
        set_going(moving)
        for screen in SCREENS:
            if asked and screen.name not in asked:
                continue
            if screen.name.startswith("watch"):
                shown: object = live.screen(*watched(moving), width=screen.columns)  # type: ignore[arg-type]
            else:
                shown = Text.from_ansi(run(screen, real if screen.real else home))
            for ending, theme in THEMES.items() if screen.drawn else ():
                (FOLDER / f"{screen.name}{ending}.svg").write_text(draw(screen, shown, theme), encoding="utf-8")
    parts = [f"## {s.title}\n\n{s.text + chr(10) * 2 if s.text else ''}{_shown(s)}\n" for s in SCREENS if s.drawn]
    titled = "\n".join(part.replace("## The same", "### The same") for part in parts)
    TARGET.write_text(f"{HEAD}\n{titled}", encoding="utf-8")


if __name__ == "__main__":
    main()
