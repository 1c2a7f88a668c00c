"""Twelve planted canaries: none of them is found anywhere afterwards, encoded or not."""

import base64
import gzip
import time
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest

from tests.e2e.rented import Sandbox

pytestmark = pytest.mark.trains

CANARIES = {
    name: f"CANARY{number:02d}zQ{'x7' * 9}{number:02d}"
    for number, name in enumerate(
        ["HF_TOKEN", "WANDB_API_KEY", "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "OPENAI_API_KEY", "GITHUB_TOKEN", "LUMINA_CANARY",
         "SSH_PASSWORD", "DATABASE_PASSWORD", "NPM_TOKEN", "AZURE_STORAGE_KEY", "GOOGLE_API_KEY"]
    )
}  # fmt: skip


def forms(value):
    raw = value.encode()
    yield raw
    yield raw[::-1]
    yield raw.hex().encode()
    yield quote(value, safe="").encode()
    for shift in range(3):
        yield base64.b64encode(b"x" * shift + raw)[4:-4]


@pytest.mark.pain(15)
def test_no_canary_leaves_the_users_environment_unless_it_is_named(lumina):
    sandbox = Sandbox(lumina)
    sandbox.up()
    follower = sandbox.start(*sandbox.words("vastai", "--secret", "HF_TOKEN", tokens="102400"), **CANARIES)
    seen_arguments, seen_disk = b"", b""
    give_up = time.monotonic() + 240
    while follower.poll() is None and time.monotonic() < give_up:
        for process in psutil.process_iter(["cmdline"]):
            seen_arguments += "\0".join(process.info["cmdline"] or []).encode(errors="replace")
        seen_disk += b"".join(contents(Path(lumina.home) / "sandbox" / "emulator" / "boxes"))
        time.sleep(1.0)
    out, err = follower.communicate(timeout=60)
    assert '"succeeded"' in out, err
    everything = {"arguments": seen_arguments, "output": (out + err).encode(), "box": seen_disk, "home": b"".join(contents(lumina.home))}
    named = CANARIES["HF_TOKEN"].encode()
    for where, text in everything.items():
        for name, value in CANARIES.items():
            for form in forms(value):
                # The one that was named lies on the box for a moment, until the supervisor has read it; nowhere else.
                if not (where == "box" and name == "HF_TOKEN" and form == named):
                    assert form not in text, (where, name)
    sandbox.judge()
    sandbox.down()


def contents(folder):
    for path in Path(folder).rglob("*"):
        try:
            if path.is_file() and not path.is_symlink() and path.stat().st_size < 20_000_000:
                data = path.read_bytes()
                yield data
                if data.startswith(b"\x1f\x8b"):
                    yield gzip.decompress(data)
        except OSError:
            continue
