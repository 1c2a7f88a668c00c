"""A rehearsal never reaches a real cloud, whoever calls: the command line or Python."""

from lumina_cloud.api.lumina import Lumina


def test_without_a_sandbox_a_rehearsal_leads_nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv("LUMINA_HOME", str(tmp_path))
    monkeypatch.setenv("LUMINA_SANDBOX", "1")
    monkeypatch.setenv("VAST_API_KEY", "a-real-key")
    (tmp_path / "config.toml").write_text('[vastai]\nurl = "https://console.example"\n')
    with Lumina() as lumina:
        assert lumina._env["VAST_URL"] == "http://127.0.0.1:1"
        assert lumina._env["VAST_API_KEY"] != "a-real-key"
        vastai = lumina.provider("vastai")
        assert "console.example" not in repr(vars(vastai))
        assert lumina.settings.home == tmp_path / "sandbox"


def test_otherwise_the_users_own_variables_count(tmp_path, monkeypatch):
    monkeypatch.setenv("LUMINA_HOME", str(tmp_path))
    monkeypatch.delenv("LUMINA_SANDBOX", raising=False)
    monkeypatch.setenv("VAST_API_KEY", "a-real-key")
    with Lumina() as lumina:
        assert lumina._env["VAST_API_KEY"] == "a-real-key"
