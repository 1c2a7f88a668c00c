"""`lumina compare` without runs: the document's sections on a terminal and as comma-separated values."""

import csv
import io

import pytest
from rich.console import Console
from typer.testing import CliRunner

from lumina_cloud.api import sections, settings
from lumina_cloud.cli import tables_sections
from lumina_cloud.cli.app import app
from tests.web import shelf


@pytest.fixture(scope="module")
def document(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LUMINA_HOME", str(tmp_path_factory.mktemp("compare")))
        return sections.compare(settings.load())


def shown(document, columns):
    console = Console(width=columns, file=io.StringIO(), color_system=None)
    for part in tables_sections.sections(document):
        console.print(part)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


@pytest.mark.parametrize("columns", [80, 100, 140])
def test_a_row_of_a_section_is_as_narrow_as_a_terminal_and_no_figure_is_broken(document, columns):
    lines = shown(document, columns)
    assert max(map(len, lines)) <= columns
    assert not [line for line in lines if "…" in line]
    for insight in document.insights:
        for low, high in (insight.loss_percent, insight.hours_percent, insight.memory_percent, insight.usd_percent):
            assert any(f"{low:+.1f} to {high:+.1f}" in line for line in lines)
    for winner in document.winners:
        assert any(line.endswith(f"on {winner.modelled.on}") for line in lines)
    start = next(n for n, line in enumerate(lines) if line.startswith("percent against dense"))
    rows = [line for line in lines[start + 4 :] if line][: 4 * len(document.insights)]
    assert [row[10:16].strip() for row in rows] == ["loss", "time", "memory", "cost"] * len(document.insights)
    assert "8-9 better" in rows[0]


def test_losses_of_different_vocabularies_in_one_list_are_told_apart(document):
    said = "a loss is per token, and does not compare between vocabularies: debug has 512, the others 32,000"
    # The winners and the tiers; no other section shows losses of debug beside others.
    assert sum(said in line for line in shown(document, 160)) == 2
    assert tables_sections.other_tokens([("b1", 32_000), ("b7", 32_000), ("found again", None)]) == []
    (note,) = tables_sections.other_tokens([("mine", 300), ("b1", 32_000)])
    assert note.plain.endswith(("mine has 300, the other 32,000", "b1 has 32,000, the other 300"))


def test_all_sections_are_one_long_table(document, tmp_path, monkeypatch):
    monkeypatch.setenv("LUMINA_HOME", str(tmp_path))
    monkeypatch.setattr(sections, "compare", lambda _: document)
    done = CliRunner().invoke(app, ["compare", "--csv"])
    assert done.exit_code == 0, done.output
    lines = list(csv.DictReader(io.StringIO(done.stdout)))
    assert list(lines[0]) == ["section", "row", "figure", "published", "ours"]
    assert {line["section"] for line in lines} == {
        *("rows", "winners", "tiers", "cost per 10^9 tokens", "insights", "breakdowns", "scenario", "strategy", "memory tips")
    }
    assert len({(line["section"], line["row"], line["figure"]) for line in lines}) == len(lines)
    per_billion = {line["row"]: (line["published"], line["ours"]) for line in lines if line["section"] == "cost per 10^9 tokens"}
    assert per_billion == {f"{c.model} {c.arch}": (c.published, c.modelled or "") for c in document.cost_per_billion_tokens}


def test_runs_side_by_side_are_one_row_each(tmp_path, monkeypatch):
    shelf.fill(tmp_path)
    monkeypatch.setenv("LUMINA_HOME", str(tmp_path))
    done = CliRunner().invoke(app, ["compare", "debug-dense-1", "debug200m-dense-2", "--csv"])
    assert done.exit_code == 0, done.output
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row["run"] for row in rows] == ["debug-dense-1", "debug200m-dense-2"]
    assert all(float(row["actual_loss"]) > 0 and float(row["planned_usd"]) > 0 for row in rows)
    assert "curve" not in rows[0]
