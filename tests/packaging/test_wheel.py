"""The wheel holds what the orchestrator needs, and plans from it without torch or deepspeed."""

import json
import os
import shutil
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


@pytest.mark.parametrize("name", ["providers", "trainer"])
def test_a_package_of_the_same_name_beside_it_is_in_nobody_s_way(wheel, tmp_path, name):
    """As pip leaves them: files of both in one folder, and the other's __init__.py in the place of ours."""
    site = tmp_path / "site"
    shutil.copytree(wheel, site)
    (site / name / "__init__.py").write_text("foreign = True\n")
    (site / name / "of_somebody_else.py").write_text("")
    environment = {**os.environ, "PYTHONPATH": str(site), "LUMINA_HOME": str(tmp_path / "home")}
    code = f"import {name}.of_somebody_else, {name}; assert {name}.foreign; {WITHOUT_TORCH}"
    argv = [sys.executable, "-c", code, "plan", "debug", "--json"]
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["recommendation"]


def test_a_package_of_the_same_name_before_it_is_named(wheel, tmp_path):
    (tmp_path / "before" / "trainer").mkdir(parents=True)
    (tmp_path / "before" / "trainer" / "__init__.py").write_text("")
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path / 'before'}{os.pathsep}{wheel}", "LUMINA_HOME": str(tmp_path / "home")}
    argv = [sys.executable, "-c", WITHOUT_TORCH, "plan", "debug", "--json"]
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    error = json.loads(done.stderr)["error"]
    assert str(tmp_path / "before" / "trainer") in error["message"]
    assert "pipx install" in error["hint"]


def test_the_image_copies_what_is_there_and_only_what_the_wheel_needs():
    lines = [line.split() for line in (ROOT / "Dockerfile").read_text().splitlines() if line.startswith("COPY") and "--from" not in line]
    copied = {name for line in lines for name in line[1:-1]}
    assert all((ROOT / name).exists() for name in copied), copied
    assert {"pyproject.toml", "README.md", "LICENSE", "lumina_cloud", "providers", "trainer", "templates"} <= copied


def test_the_version_stands_in_one_place():
    from lumina_cloud import __version__

    said = subprocess.run(["git", "grep", "-lF", f'"{__version__}"'], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    assert [path for path in said if not path.startswith(("tests/", "docs/", "providers/emulator"))] == ["lumina_cloud/__init__.py"]
