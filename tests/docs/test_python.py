"""The Python of the documents is one program that runs as it stands; its names are typed, and cost nothing before they are used."""

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import lumina_cloud
from tests import measured

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "reference" / "python.md"
STAND_IN = ROOT / "tests" / "e2e" / "stand_in"


def program():
    return "\n".join(re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL))


def test_the_examples_run_in_their_order(tmp_path):
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LUMINA_", "RUNPOD_", "VAST_", "LAMBDA_"))}
    own = {"HOME": str(tmp_path), "LUMINA_HOME": str(measured.shared_by(tmp_path / "home")), "LUMINA_TRAINER": str(STAND_IN)}
    done = subprocess.run(
        [sys.executable, "-c", program()], cwd=tmp_path, env={**kept, **own}, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    printed = done.stdout.splitlines()
    assert "succeeded finished" in printed, "the run was not followed to its end"
    assert printed[-1].startswith("2 "), "a model that is unknown is an error of usage"


def test_the_examples_take_public_names_only():
    taken = [node for node in ast.walk(ast.parse(program())) if isinstance(node, ast.ImportFrom) and node.module != "decimal"]
    assert taken
    assert {node.module for node in taken} == {"lumina_cloud"}
    assert {name.name for node in taken for name in node.names} <= set(lumina_cloud.__all__)


def test_every_public_name_is_there():
    for name in lumina_cloud.__all__:
        assert getattr(lumina_cloud, name) is not None
    assert set(lumina_cloud.__all__) <= set(dir(lumina_cloud))


def test_the_package_alone_imports_nothing():
    code = "import sys; before = set(sys.modules); import lumina_cloud; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not [name for name in done.stdout.split() if name.startswith(("lumina_cloud.", "providers", "trainer", "pydantic", "rich"))]


def test_asking_for_the_class_waits_for_no_database_and_no_ssh():
    code = "import sys; from lumina_cloud import Lumina, WorkloadRequest, Limits; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert not {"torch", "deepspeed", "sqlalchemy", "alembic", "paramiko", "httpx"} & set(done.stdout.split())
