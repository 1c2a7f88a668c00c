"""The card of an exported model: README.md as Hugging Face reads it (https://huggingface.co/docs/hub/model-cards).

Its figures are the ledger's; a folder that no run of this ledger left has the configuration alone. What came home from a machine is
text on it and nothing else.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from lumina_cloud.api import reporting, views
from lumina_cloud.core import markdown, money, templates, units, untrusted
from lumina_cloud.runs import workloads
from trainer import config as trainer_config

if TYPE_CHECKING:
    from lumina_cloud.ledger import Ledger, RunRecord
    from trainer.config import RunConfig

NAME = "README.md"


def card(ledger: Ledger, folder: Path, load: str) -> str:
    """Return the card of the model in a results folder or a checkpoint; `load` is how `transformers` loads it."""
    run = next((r for r in ledger.runs() if _within(folder, Path(r.folder))), None)
    config = _config(folder, run)
    loader = FileSystemLoader(templates.folder())
    made = Environment(loader=loader, autoescape=False, undefined=StrictUndefined, trim_blocks=True)  # noqa: S701  # Markdown's filters escape
    made.filters |= markdown.FILTERS | {"count": units.count, "show": money.show, "duration": units.duration}
    return made.get_template("model_card.md.j2").render(
        name=run.run_id if run is not None else folder.resolve().name,
        load=load,
        config=config,
        parameters=None if config is None else workloads.parameters(config),
        dataset=_dataset(config),
        **_of_run(ledger, run),
    )


def _within(folder: Path, of_run: Path) -> bool:
    return folder.resolve().is_relative_to(of_run.resolve())


def _config(folder: Path, run: RunRecord | None) -> RunConfig | None:
    try:
        return trainer_config.from_json(run.config_json) if run is not None else trainer_config.load(folder / "run.json")
    except trainer_config.ConfigError:
        return None


def _dataset(config: RunConfig | None) -> tuple[str, str]:
    """Return the data's name on the Hub, empty where it is none, and how it is called in the text."""
    if config is None:
        return "", "text that is not known"
    source = config.data.source
    if source.startswith("hf:"):
        return source.removeprefix("hf:").split(":")[0], source
    # A path of this computer is nobody else's business.
    return "", Path(source).name if "/" in source else source


def _of_run(ledger: Ledger, run: RunRecord | None) -> dict[str, Any]:
    """Return what the ledger knows of a run; the same names, empty, where there is none."""
    if run is None:
        return {"run": None, "results": None, "perplexity": None, "usd": None, "routing": [], "sample": "", "versions": [], "command": ""}
    charges, spent = ledger.charges(run.run_id), ledger.spent(run.run_id)
    found = run.result.get("sample")
    routing = run.result.get("routing")
    return {
        "run": run,
        "results": views.results(run, charges, (), spent),
        "perplexity": untrusted.number(run.result.get("perplexity"), 1.0, 1e300),
        "usd": spent,
        "routing": [(k.replace("_", " "), v) for k, v in routing.items() if isinstance(v, float)] if isinstance(routing, dict) else [],
        "sample": f"{found.get('prompt') or ''}{found.get('text') or ''}" if isinstance(found, dict) else "",
        "versions": reporting.versions_of(run),
        "command": reporting.command_of(ledger, run, for_others=True),
    }
