"""Keys are found where the clouds' own tools keep them, are missed with a way out, and never shown."""

import pytest

from lumina_cloud.core.errors import CredentialsError
from providers.credentials import CLOUDS, base_url, find_key, need_key

FILES = [
    ("vastai", ".config/vastai/vast_api_key", "k1\n"),
    ("vastai", ".vast_api_key", "k1"),
    ("runpod", ".runpod/config.toml", 'apiKey = "k1"\n'),
    ("runpod", ".runpod/config.toml", '[default]\napi_key = "k1"\n'),
    ("lambda", ".lambda_cloud/lambda_keys", "# mine\napi_key = k1\n"),
]


@pytest.mark.parametrize(("name", "path", "text"), FILES)
def test_a_file_of_the_clouds_own_tools_is_read(tmp_path, name, path, text):
    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text(text)
    key = need_key(CLOUDS[name], {"HOME": str(tmp_path)})
    assert (key.text, key.where) == ("k1", str(tmp_path / path))
    assert "k1" not in repr(key)


def test_vastais_file_follows_xdg(tmp_path):
    (tmp_path / "vastai").mkdir()
    (tmp_path / "vastai" / "vast_api_key").write_text("k1")
    assert find_key(CLOUDS["vastai"], {"HOME": "/nowhere", "XDG_CONFIG_HOME": str(tmp_path)}).text == "k1"


@pytest.mark.parametrize(("name", "variable"), [(c.name, v) for c in CLOUDS.values() for v in c.variables])
def test_a_variable_goes_before_a_file(tmp_path, name, variable):
    for cloud, path, text in FILES:
        if cloud == name:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
    assert find_key(CLOUDS[name], {"HOME": str(tmp_path), variable: " k2 "}).text == "k2"


@pytest.mark.parametrize("name", CLOUDS)
def test_a_missing_key_says_where_it_was_looked_for_and_where_to_get_one(tmp_path, name):
    with pytest.raises(CredentialsError) as caught:
        need_key(CLOUDS[name], {"HOME": str(tmp_path)})
    assert CLOUDS[name].variables[0] in caught.value.message
    assert "~/" in caught.value.message
    assert CLOUDS[name].console in caught.value.hint
    assert str(tmp_path) not in caught.value.message


@pytest.mark.parametrize("text", ["", "not toml [", "apiKey = 7\n", "\xff"])
def test_a_file_without_a_key_is_no_key(tmp_path, text):
    (tmp_path / ".runpod").mkdir()
    (tmp_path / ".runpod" / "config.toml").write_bytes(text.encode("latin-1"))
    assert find_key(CLOUDS["runpod"], {"HOME": str(tmp_path)}) is None


def test_addresses_come_from_the_environment_then_the_setting_then_the_cloud():
    cloud = CLOUDS["runpod"]
    assert base_url(cloud, {}) == "https://api.runpod.io"
    assert base_url(cloud, {}, "https://mine.example.org/") == "https://mine.example.org"
    assert base_url(cloud, {"RUNPOD_API_BASE_URL": "http://127.0.0.1:9/"}, "https://mine.example.org") == "http://127.0.0.1:9"
