"""A rehearsal never reaches a real cloud, whoever calls: the command line or Python."""

import pytest

from lumina_cloud.api.lumina import Lumina
from lumina_cloud.core.errors import SandboxDown
from providers.emulator import sandbox


def test_without_a_sandbox_a_rehearsal_leads_nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("LUMINA_HOME", str(tmp_path))
    monkeypatch.setenv("LUMINA_SANDBOX", "1")
    monkeypatch.setenv("VAST_API_KEY", "a-real-key")
    (tmp_path / "config.toml").write_text('[vastai]\nurl = "https://console.example"\n')
    with Lumina() as lumina:
        assert lumina._env["VAST_URL"] == "http://127.0.0.1:1"
        assert lumina._env["VAST_API_KEY"] != "a-real-key"
        with pytest.raises(SandboxDown):
            lumina.provider("vastai")
        assert lumina.settings.home == tmp_path / "sandbox"


def test_otherwise_the_users_own_variables_count(tmp_path, monkeypatch):
    monkeypatch.setenv("LUMINA_HOME", str(tmp_path))
    monkeypatch.delenv("LUMINA_SANDBOX", raising=False)
    monkeypatch.setenv("VAST_API_KEY", "a-real-key")
    with Lumina() as lumina:
        assert lumina._env["VAST_API_KEY"] == "a-real-key"


def test_a_sandbox_that_comes_up_later_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("LUMINA_HOME", str(tmp_path))
    monkeypatch.setenv("LUMINA_SANDBOX", "1")
    with Lumina() as lumina:
        with pytest.raises(SandboxDown):
            lumina.provider("vastai")
        sandbox.up(tmp_path, {})
        try:
            lumina.provider("vastai").check()
        finally:
            sandbox.down(tmp_path)
