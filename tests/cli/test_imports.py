"""`lumina --help` stays quick: what it imports is counted, not timed."""

import subprocess
import sys

import pytest

HEAVY = {
    *("torch", "deepspeed", "numpy", "tokenizers", "sqlalchemy", "alembic", "pydantic", "jinja2", "paramiko", "httpx", "psutil"),
    *("starlette", "uvicorn", "anyio"),
    *("platformdirs", "lumina_cloud.api", "lumina_cloud.ledger", "lumina_cloud.planner", "lumina_cloud.runs", "lumina_cloud.catalog"),
    *("providers", "trainer"),
}


def imported(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.pain(11)
def test_help_imports_nothing_heavy():
    code = (
        "import sys; from lumina_cloud.cli import app; sys.argv=['lumina', '--help']\n"
        "try: app.main()\nexcept SystemExit: pass\nprint(' '.join(sys.modules))"
    )
    assert not imported(code) & HEAVY


def test_planning_and_reading_need_no_torch():
    code = "import sys, lumina_cloud.api.lumina, lumina_cloud.api.requests, lumina_cloud.web.report; print(' '.join(sys.modules))"
    assert not imported(code) & {"torch", "deepspeed", "transformers", "numpy"}
