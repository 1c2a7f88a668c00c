"""`lumina config` says what `settings` goes by, and never a secret."""

import re
from pathlib import Path

import pytest

from lumina_cloud.api import configuration, settings

ROOT = Path(__file__).parents[2]

FILE = """
[local]
usd_per_hour = "0.2"
[runpod]
url = "https://file.example"
[notify]
webhook = "https://hook.example/T0PSECRET"
"""


@pytest.fixture
def explained(tmp_path):
    def explain(*flags, file="", **env):
        (tmp_path / "config.toml").write_text(file)
        document = configuration.explain(flags, {"HOME": str(tmp_path), "LUMINA_HOME": str(tmp_path), **env})
        return {row.name: row for row in document.settings}, document.model_dump_json()

    return explain


def test_the_environment_goes_before_the_file_and_the_file_before_the_default(explained):
    rows, _ = explained()
    assert (rows["runpod.url"].source, rows["runpod.url"].value) == ("default", "https://api.runpod.io")
    rows, _ = explained(file=FILE)
    assert (rows["runpod.url"].source, rows["runpod.url"].value) == ("file", "https://file.example")
    assert (rows["local.usd_per_hour"].value, rows["local.usd_per_hour"].where) == ("0.20", "[local] usd_per_hour")
    rows, _ = explained(file=FILE, RUNPOD_API_BASE_URL="https://env.example")
    assert (rows["runpod.url"].source, rows["runpod.url"].where) == ("environment", "RUNPOD_API_BASE_URL")
    assert explained("--sandbox", LUMINA_SANDBOX="1")[0]["sandbox"].source == "flag"
    assert explained(LUMINA_SANDBOX="0")[0]["sandbox"].source == "default"


def test_no_secret_is_shown(explained, tmp_path):
    (tmp_path / ".vast_api_key").write_text("T0PSECRET-vast")
    _, text = explained(file=FILE, RUNPOD_API_KEY="T0PSECRET-key", LUMINA_LEDGER_URL="postgresql://me:T0PSECRET@host:5433/books")
    assert "T0PSECRET" not in text
    assert "postgresql://me@host:5433/books" in text
    assert str(tmp_path / ".vast_api_key") in text


def test_each_section_and_variable_that_the_code_reads_is_listed():
    code = "\n".join(path.read_text() for folder in ("lumina_cloud", "providers") for path in (ROOT / folder).rglob("*.py"))
    read = set(re.findall(r"\bLUMINA_[A-Z_]+\b", code))
    # For tests, and words to machines that Lumina itself sets.
    ours = {"LUMINA_CRASH_AT", "LUMINA_EDGE_LOG", "LUMINA_HOST_KEYS", "LUMINA_LAMBDA_SSH_PORT"}
    assert read - ours <= {name for one in configuration.KNOWN for name in one.variables}
    sections = {one.section.strip("[]") for one in configuration.KNOWN if one.section}
    assert sections == {"local", "prices", "notify", "ssh", "renting", *settings.CLOUDS}
