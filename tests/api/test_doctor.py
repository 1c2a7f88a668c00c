"""The doctor says what is there, what is missing and how to get it, and never shows a key."""

import os
import socket
from decimal import Decimal

import pytest

from lumina_cloud.api import doctor
from lumina_cloud.api.settings import Settings
from lumina_cloud.core.errors import AuthError, BadReply, ProviderDown

KEY = "canary-5f1c0de"


class Cloud:
    """A cloud without a balance."""

    def __init__(self, error=None, skew=0.4):
        self.error, self.skew = error, skew

    def check(self):
        if self.error is not None:
            raise self.error

    def clock_skew(self):
        return self.skew


class Prepaid(Cloud):
    """A cloud with one."""

    def __init__(self, usd, **more):
        super().__init__(**more)
        self.usd = usd

    def balance(self):
        if isinstance(self.usd, Exception):
            raise self.usd
        return self.usd


@pytest.fixture
def examined(tmp_path):
    def examine(env=None, **clouds):
        settings = Settings(home=tmp_path / "home", config_file=tmp_path / "config.toml", local_usd_per_hour=Decimal("0.05"))
        keys = {"runpod": "RUNPOD_API_KEY", "vastai": "VAST_API_KEY", "lambda": "LAMBDA_API_KEY"}
        given = {"HOME": str(tmp_path), **{keys[name]: KEY for name in clouds}, **(env or {})}
        document = doctor.examine(settings, lambda name: clouds[name], given)
        assert KEY not in document.model_dump_json()
        return document, {check.name: check for check in document.checks}

    return examine


def test_without_a_key_nothing_is_broken_and_the_way_to_one_is_said(examined):
    document, checks = examined()
    assert document.ok
    for name, variable in (("runpod", "RUNPOD_API_KEY"), ("vastai", "VAST_API_KEY"), ("lambda", "LAMBDA_API_KEY")):
        assert checks[name].state == "missing"
        assert variable in checks[name].message
        assert "get one at" in checks[name].hint
    assert {"local", "ssh", "disk", "clock"} <= checks.keys()
    assert checks["disk"].state in ("ok", "warning")


def test_a_good_key_its_balance_and_the_clock(examined):
    document, checks = examined(vastai=Prepaid(Decimal("17.25")), **{"lambda": Cloud()})
    assert document.ok
    assert checks["vastai"].state == checks["lambda"].state == checks["vastai balance"].state == checks["clock"].state == "ok"
    assert "VAST_API_KEY" in checks["vastai"].message
    assert "$17.25" in checks["vastai balance"].message
    assert "lambda balance" not in checks


def test_a_refused_key_is_broken_and_a_cloud_that_is_down_is_not(examined):
    document, checks = examined(vastai=Cloud(AuthError("refused", "make a new one")), runpod=Cloud(ProviderDown("down")))
    assert not document.ok
    assert (checks["vastai"].state, checks["vastai"].hint) == ("failed", "make a new one")
    assert checks["runpod"].state == "warning"


def test_little_money_and_unknown_money_are_warned_of(examined):
    _, checks = examined(vastai=Prepaid(Decimal("0.50")), runpod=Prepaid(BadReply("it does not say")))
    assert checks["vastai balance"].state == "warning"
    assert any(c.message == "it does not say" and c.state == "warning" for c in checks.values())


@pytest.mark.parametrize(("skew", "state", "word"), [(-86_400, "failed", "behind"), (90, "failed", "ahead"), (-3, "ok", "within")])
def test_a_wrong_clock_is_found(examined, skew, state, word):
    document, checks = examined(vastai=Cloud(skew=skew))
    assert checks["clock"].state == state
    assert word in checks["clock"].message
    assert document.ok == (state == "ok")


def test_one_wrong_answer_does_not_make_the_clock_wrong(examined):
    _, checks = examined(vastai=Cloud(skew=5000), **{"lambda": Cloud(skew=0.2)})
    assert checks["clock"].state == "ok"


def test_ssh_keys_and_agents(examined, tmp_path):
    _, checks = examined()
    assert checks["ssh"].state == "missing"
    path = tmp_path / ".ssh" / "id_ed25519"
    path.parent.mkdir()
    path.write_text("key")
    path.chmod(0o644)
    assert "chmod 600" in examined()[1]["ssh"].hint
    path.chmod(0o600)
    assert examined()[1]["ssh"].state == "ok"
    path.unlink()
    folder = os.open(tmp_path, os.O_RDONLY)
    with socket.socket(socket.AF_UNIX) as agent:
        # A socket's path is short by nature; a test's folder need not be.
        where = f"/proc/self/fd/{folder}/agent"
        agent.bind(where)
        agent.listen()
        assert examined({"SSH_AUTH_SOCK": where})[1]["ssh"].message == "an agent answers"
    os.close(folder)
    assert examined({"SSH_AUTH_SOCK": str(tmp_path / "nothing")})[1]["ssh"].state == "missing"
