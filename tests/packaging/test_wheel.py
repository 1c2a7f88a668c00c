"""The wheel holds what the orchestrator needs, and plans from it without torch or deepspeed."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

WITHOUT_TORCH = "import sys; sys.modules.update(torch=None, deepspeed=None); from lumina_cloud.cli.app import main; main()"
"""Runs `lumina` as on a machine where neither can be imported."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder], cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def test_it_holds_the_three_packages_their_data_and_the_templates(wheel):
    for path in ("lumina_cloud/cli/app.py", "providers/local.py", "trainer/train.py", "trainer/presets.toml"):
        assert (wheel / path).is_file(), path
    for folder, suffix in (("lumina_cloud/catalog/data", ".toml"), ("lumina_cloud/_templates", ".j2")):
        source = ROOT / folder.replace("lumina_cloud/_templates", "templates")
        wanted = {p.name for p in source.rglob(f"*{suffix}")}
        assert wanted
        assert {p.name for p in (wheel / folder).rglob(f"*{suffix}")} == wanted
    assert not (wheel / "tests").exists()


def test_it_plans_from_an_empty_folder_without_torch(wheel, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(wheel), "LUMINA_HOME": str(tmp_path / "home")}
    argv = [sys.executable, "-c", WITHOUT_TORCH, "plan", "b7", "--arch", "mod", "--json"]
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert plan["rows"]
    assert plan["published"][0]["loss"] == 2.39
    where = "import lumina_cloud; print(lumina_cloud.__file__)"
    used = subprocess.run([sys.executable, "-c", where], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert used.stdout.startswith(str(wheel))
