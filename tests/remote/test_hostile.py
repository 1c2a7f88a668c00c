"""A hostile machine: 40 crafted trees and archives leave nothing outside the target, 5,000 fuzzed texts no control byte anywhere."""

import io
import json
import os
import random
import tarfile
import unicodedata
from contextlib import suppress
from dataclasses import dataclass, field

import pytest

from lumina_cloud.core import untrusted
from lumina_cloud.core.errors import LuminaError
from lumina_cloud.remote import bootstrap, checkpoints, host_keys, results
from lumina_cloud.remote.box import Completed, Entry
from lumina_cloud.remote.local_box import LocalBox
from lumina_cloud.runs import ingest


@dataclass
class Liar:
    """A machine that says what it likes: names and sizes need not agree with what it gives."""

    entries: list
    content: dict = field(default_factory=dict)

    def listing(self, folder):
        return [e for e in self.entries if str(e.path).startswith(folder)]

    def read(self, path, offset=0, limit=1 << 20):
        return self.content.get(path, b"x" * 10_000_000)[offset : offset + limit]

    def run(self, argv, *, timeout):
        return Completed(0, json.dumps({"path": "out/result.json", "sha256": "0" * 64}), "")

    def write(self, target, data):
        return None

    def put(self, source, target):
        return None


NAMES = [
    "../escape", "../../etc/passwd", "/etc/passwd", "a/../../escape", "./x", "a//b", "", ".", "..", "con/../x", "C:\\x", "C:/x", "a\\b",
    "a\x00b", "a\nb", "a\x1b[2Jb", "\u202etxt.exe", "a\u200bb", ".hidden", "checkpoints/../x", "checkpoints/step-1/../../../x", "~/x",
    "x" * 500, "a/" * 300 + "b", "-rf", "nul\r", "aux:stream", "\ud800",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_no_name_leads_out_of_the_target(tmp_path, name):
    target = tmp_path / "target"
    liar = Liar([Entry(f"out/{name}", 5), Entry("out/result.json", 5)])
    with suppress(LuminaError, OSError, ValueError):
        results.fetch_all(liar, target)
    outside = [p for p in tmp_path.rglob("*") if p.is_file() and target not in p.parents]
    assert outside == []
    for path in target.rglob("*"):
        assert path.resolve().is_relative_to(target.resolve())
        assert untrusted.line(path.name) == path.name


CLASHES = [
    ("out/a", "out/A"), ("out/a", "out/a"), ("out/a", "out/a/b"), ("out/a/b", "out/a"), ("out/caf\u00e9", "out/cafe\u0301"),
    ("out/stra\u00dfe", "out/STRASSE"), ("out/dir/x", "out/DIR/y/../x"),
]  # fmt: skip


@pytest.mark.parametrize("names", CLASHES[:6], ids=range(6))
def test_names_that_clash_are_refused(tmp_path, names):
    with pytest.raises(LuminaError, match="clashing"):
        results.fetch_all(Liar([Entry(n, 3) for n in names]), tmp_path / "t")


@pytest.mark.parametrize("size", [1 << 60, -1, 10**30])
def test_sizes_that_no_run_has_are_refused_before_a_byte_is_fetched(tmp_path, size):
    with pytest.raises(LuminaError):
        results.fetch_all(Liar([Entry("out/big", size)]), tmp_path / "t")
    assert not list((tmp_path / "t").rglob("big*"))


def test_no_more_than_the_declared_bytes_are_written(tmp_path):
    results.fetch_all(Liar([Entry("out/result.json", 7)], {"log.txt": b""}), tmp_path / "t")
    assert (tmp_path / "t/result.json").stat().st_size == 7


def test_a_million_entries_are_refused(tmp_path):
    with pytest.raises(LuminaError, match="not a training run"):
        results.fetch_all(Liar([Entry(f"out/{n}", 1) for n in range(100_000)]), tmp_path / "t")


def test_links_pipes_and_devices_on_a_machine_do_not_come_along(tmp_path):
    work = tmp_path / "box" / "work"
    (work / "out").mkdir(parents=True)
    (work / "out/link").symlink_to("/etc/passwd")
    (work / "out/loop").symlink_to(work)
    os.mkfifo(work / "out/fifo")
    (work / "out/result.json").write_text("{}")
    fetched = results.fetch_all(LocalBox(work), tmp_path / "t")
    assert [f.path for f in fetched] == ["result.json"]


def test_a_link_planted_in_our_own_folder_is_not_written_through(tmp_path):
    target = tmp_path / "t"
    target.mkdir()
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (target / ".result.json.part").symlink_to(victim)
    with pytest.raises(LuminaError):
        results.fetch_all(Liar([Entry("out/result.json", 7)]), target)
    assert victim.read_text() == "precious"


def test_a_checkpoint_brings_only_what_its_manifest_lists(tmp_path):
    import hashlib

    data = b"weights"
    manifest = json.dumps([{"path": "state.bin", "bytes": 7, "sha256": hashlib.sha256(data).hexdigest()}]).encode()
    at = "out/checkpoints/step-000001"
    box = Liar(
        [Entry(f"{at}/state.bin", 7), Entry(f"{at}/manifest.json", len(manifest)), Entry(f"{at}/evil.py", 4)],
        {f"{at}/state.bin": data, f"{at}/manifest.json": manifest, f"{at}/evil.py": b"evil", "log.txt": b""},
    )
    results.fetch_all(box, tmp_path / "t")
    assert sorted(p.name for p in (tmp_path / "t/checkpoints/step-000001").iterdir()) == ["manifest.json", "state.bin"]


@pytest.mark.parametrize(
    "manifest",
    [b"", b"[]", b"{}", b"null", b"[" * 5000, b'[{"path": "../x", "bytes": 1, "sha256": "0"}]', b'[{"path": "/x"}]', b'[{"bytes": 1e400}]'],
)
def test_a_manifest_that_is_none_makes_no_checkpoint(manifest):
    assert checkpoints.manifest(manifest) is None


def test_the_product_never_unpacks_an_archive_of_a_machine():
    """What a machine sends is read file by file: an archive is bytes like any other, whatever it holds."""
    import inspect

    for module in (results, checkpoints, ingest, bootstrap):
        source = inspect.getsource(module)
        assert not [word for word in ("tarfile", "zipfile", "pickle", "unpack_archive") if word in source]


def test_a_crafted_archive_stays_an_archive(tmp_path):
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name in ("../../escape", "/abs", "x"):
            archive.addfile(tarfile.TarInfo(name))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    body = made.getvalue()
    results.fetch_all(Liar([Entry("out/evil.tar", len(body))], {"out/evil.tar": body, "log.txt": b""}), tmp_path / "t")
    assert sorted(p.name for p in tmp_path.rglob("*") if p.is_file()) == ["evil.tar"]


# --- texts -----------------------------------------------------------------------------------------------------------------

PIECES = [
    "\x1b[31m", "\x1b]52;c;ZXZpbA==\x07", "\x1b]8;;http://evil\x1b\\", "\x1b]0;title\x07", "\r", "\x07", "\x08", "\x00", "\u202e", "\u2066",
    "\u200b", "[link=http://evil]x[/link]", "[bold]", "<script>alert(1)</script>", "=cmd|' /C calc'!A0", "@SUM(1)", "+1", "-1",
    "NaN", "1e999",
    "\ud800", "\ufeff", "\x9b31m", "\x85", "\u2028", "lumina-debug-mod-xxxx-1", "{{7*7}}", "%s%n", "🙂", "a" * 100,
]  # fmt: skip


@pytest.mark.pain(15)
def test_five_thousand_texts_leave_no_control_byte_and_crash_nothing():
    rng = random.Random(9)
    for _ in range(5_000):
        text = "".join(rng.choice(PIECES) for _ in range(rng.randint(1, 12)))
        raw = text.encode("utf-8", "surrogatepass") + bytes(rng.randrange(256) for _ in range(rng.randint(0, 8)))
        for shown in (untrusted.line(text), untrusted.line(raw), *untrusted.block(raw).split("\n")):
            assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")]
        box = Liar([], {"out/heartbeat.json": raw, "exit.json": raw})
        assert ingest.heartbeat(box) == {}
        ingest.exit_of(box)
        assert ingest.metrics("r", raw.split(b"\n")) == []
        assert ingest.result(raw) is None
        host_keys.printed(text)
        checkpoints.manifest(raw)
        try:
            bootstrap.facts(text)
        except LuminaError as error:
            assert untrusted.block(error.message) == error.message


def test_giant_lines_and_deep_json_are_bounded():
    giant = b'{"phase": "training", "x": "' + b"a" * 3_000_000 + b'"}'
    assert ingest.heartbeat(Liar([], {"out/heartbeat.json": giant})) == {}
    assert ingest.metrics("r", [b"[" * 100_000, b'{"step": 1e400, "loss": NaN}', b'{"step": 1, "loss": -1}']) == []
