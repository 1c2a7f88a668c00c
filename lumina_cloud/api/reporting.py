"""What a report is about: which runs, what they cost together, and what to type to do one of them again."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lumina_cloud import __version__
from lumina_cloud.api import launching, teaching, views
from lumina_cloud.api.budgets import is_month
from lumina_cloud.core import money
from lumina_cloud.core.errors import UsageError
from lumina_cloud.ledger import SpendingRecord, spending
from trainer import config as trainer_config

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lumina_cloud.api.documents.of_money import CostRow
    from lumina_cloud.ledger import Ledger, RunRecord

_OPTIONS = ("tokens", "unique_tokens", "global_batch_tokens", "seed", "source")
"""Settings that have an option of their own."""


@dataclass(frozen=True)
class Selection:
    """Which runs: those that are named, else those of a month, of a project, or of both; all of them where nothing is said."""

    runs: Sequence[str] = ()
    month: str | None = None
    project: str | None = None

    def check(self) -> None:
        """Raise UsageError for what cannot be meant."""
        if self.runs and (self.month is not None or self.project is not None):
            raise UsageError("runs are named, and chosen by month or project as well", "leave one of both out")
        if self.month is not None and not is_month(self.month):
            raise UsageError(f"--month is {self.month!r}, but must be a month such as 2026-03", "e.g. --month 2026-03")

    @property
    def title(self) -> str:
        """What the report is called."""
        if self.runs:
            return ", ".join(self.runs[:3]) + (f" and {len(self.runs) - 3} more" if len(self.runs) > 3 else "")
        parts = ["runs", f"of project {self.project}" if self.project else "", f"begun in {self.month}" if self.month else ""]
        return " ".join(part for part in parts if part) if self.month or self.project else "all runs"

    @property
    def file_name(self) -> str:
        """A name for its file, without an ending."""
        words = self.runs[:3] if self.runs else [word for word in (self.project, self.month) if word]
        return re.sub(r"[^A-Za-z0-9._-]+", "-", "-".join(words)).strip("-.")[:80] or "all"


def chosen(ledger: Ledger, selection: Selection) -> list[RunRecord]:
    """Return the runs of a month or a project, newest first. Raises UsageError when there are none."""
    found = [
        run for run in ledger.runs() if selection.month in (None, f"{run.created_at:%Y-%m}") and selection.project in (None, run.project)
    ]
    if not found and (selection.month or selection.project):
        raise UsageError(f"there are no {selection.title}", "lumina costs --by month, or --by project, shows what there is")
    return found


def money_of(ledger: Ledger, runs: Sequence[RunRecord]) -> CostRow:
    """Return what runs cost together, with lost money apart."""
    charges = ledger.charges_of([run.run_id for run in runs])
    cells = spending.summed(spending.cells(run, ledger.rentals(run.run_id), charges[run.run_id]) for run in runs)
    measures = next((kept for (dimension, _key), kept in cells.items() if dimension == "all"), {})
    return views.cost_row(SpendingRecord("all", "total", **measures), "total")


def command_of(ledger: Ledger, run: RunRecord, *, for_others: bool = False) -> str:
    """Return the command that does a run again: the same workload, seed and data, on the same kind of machine, under the same cap.

    `for_others` leaves out what is this computer's and this user's own: folders, project and labels.
    """
    where = [] if run.provider == "local" else ["--gpu", run.gpu, "--count", str(run.count)]
    if teaching.measures(run):
        # A probe is begun by the plan that it measures for.
        return shlex.join(["lumina", "plan", run.model, "--arch", run.arch, "--provider", run.provider, *where, "--probe"])
    words = ["lumina", "launch", run.model, "--arch", run.arch]
    try:
        config = trainer_config.from_json(run.config_json)
    except trainer_config.ConfigError:
        config = None
    if config is not None:
        training = config.training
        words += ["--tokens", str(training.tokens), "--unique-tokens", str(training.unique_tokens)]
        words += ["--global-batch", str(training.global_batch_tokens), "--seed", str(training.seed)]
    if run.plan_id is not None and ledger.plan(run.plan_id) is not None:
        request, _ = launching.request_from_plan(ledger, run.plan_id)
        words += ["--data", _named(request.data, for_others)] if request.data else []
        words += ["--recipe", request.recipe] if request.recipe != "paper" else []
        words += ["--init-from", _named(request.init_from, for_others)] if request.init_from else []
        for name, value in request.settings:
            words += [] if name in _OPTIONS else ["--set", f"{name}={value}"]
    words += ["--provider", run.provider, *where]
    words += ["--max-cost", money.text(run.usd_cap)]
    if not for_others:
        words += ["--project", run.project] if run.project else []
        words += [word for label in run.labels for word in ("--label", label)]
    return shlex.join(words)


def _named(source: str, for_others: bool) -> str:
    return Path(source).name if for_others and Path(source).is_absolute() else source


def versions_of(run: RunRecord) -> list[tuple[str, str]]:
    """Return what a run was made with: the versions that its trainer told, and ours that writes this."""
    told = run.result.get("versions")
    return [*((str(k), str(v)) for k, v in (told.items() if isinstance(told, dict) else ())), ("lumina (of this report)", __version__)]
