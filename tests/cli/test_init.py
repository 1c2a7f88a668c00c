"""`lumina init` asks what it needs, writes no key anywhere, and refuses to guess where nobody answers."""

import json

import pytest
from typer.testing import CliRunner

from lumina_cloud.api.lumina import Lumina
from lumina_cloud.cli.app import app
from lumina_cloud.cli.init import guided
from lumina_cloud.core.errors import CredentialsError, UsageError
from tests import documents

KEY = "vast-0123456789abcdef-never-to-be-seen"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home without any key, and a Vast.ai that nobody answers for."""
    for name in ("RUNPOD_API_KEY", "VAST_API_KEY", "LAMBDA_API_KEY", "LAMBDA_CLOUD_API_TOKEN", "XDG_CONFIG_HOME", "LUMINA_SANDBOX"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LUMINA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("VAST_URL", "http://127.0.0.1:1")
    return tmp_path


class Answers:
    """Answers in order; what comes before an answer may change the world."""

    def __init__(self, *answers):
        self.left, self.asked = list(answers), []

    def choose(self, question, choices, default):
        typed = self.text(question, default)
        assert typed in choices
        return typed

    def text(self, question, default):
        self.asked.append(question)
        answer = self.left.pop(0)
        typed = answer() if callable(answer) else answer
        return default if typed is None else typed


def test_nobody_there_is_told_what_to_type(home):
    done = CliRunner().invoke(app, ["init"])
    assert done.exit_code == UsageError.exit_code
    assert "lumina init --yes --where sandbox" in done.output


def test_the_sandbox_is_offered_first_and_needs_nothing(home):
    with Lumina() as lumina:
        talk = Answers(None)
        document = guided(lumina, None, None, talk)
    assert (document.where, document.ready, document.checks) == ("sandbox", True, [])
    assert document.next.startswith("lumina sandbox up")
    assert len(talk.asked) == 1


def test_a_cap_is_set_for_every_month_and_no_launch_may_exceed_it(home):
    with Lumina() as lumina:
        document = guided(lumina, "local", None, Answers("12.50"))
        assert document.usd_cap_a_month == "12.50"
        assert [(row.project, row.month, row.usd_cap) for row in lumina.budget().budgets] == [("", "", "12.50")]
        # Asked once: it is there now.
        assert guided(lumina, "local", None, Answers()).usd_cap_a_month == "12.50"


def test_a_key_is_looked_for_where_its_cloud_keeps_it_and_written_nowhere(home, capsys):
    def put_it_there():
        place = home / ".config" / "vastai" / "vast_api_key"
        place.parent.mkdir(parents=True)
        place.write_text(KEY)

    with Lumina() as lumina:
        document = guided(lumina, "vastai", None, Answers(put_it_there, "0"))
    # The key is there; that its cloud does not answer is no fault of this computer.
    assert [(check.provider, check.state) for check in document.checks] == [("vastai", "warning")]
    assert document.ready
    said = capsys.readouterr()
    assert "vast_api_key" in said.err
    written = b"".join(path.read_bytes() for path in (home / "home").rglob("*") if path.is_file())
    assert KEY.encode() not in written + said.err.encode() + said.out.encode() + document.model_dump_json().encode()


def test_a_missing_key_can_be_skipped_and_is_an_exit_code(home):
    with Lumina() as lumina:
        assert not guided(lumina, "runpod", None, Answers("s", "0")).ready
    done = CliRunner().invoke(app, ["init", "--yes", "--where", "lambda", "--json"])
    assert done.exit_code == CredentialsError.exit_code
    documents.check(["init"], done.stdout)
    assert json.loads(done.stdout)["checks"][0]["state"] == "missing"


def test_a_place_that_is_none_is_named_with_the_nearest(home):
    done = CliRunner().invoke(app, ["init", "--yes", "--where", "vast.ai"])
    assert done.exit_code == UsageError.exit_code
    assert "did you mean 'vastai'?" in done.output
