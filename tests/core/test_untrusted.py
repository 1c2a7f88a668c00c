"""Nothing that comes from outside can drive a terminal, leave its folder, or pose as another number."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lumina_cloud.core import untrusted


@given(st.one_of(st.text(), st.binary()))
def test_a_line_never_holds_a_control_or_format_character(value):
    shown = untrusted.line(value)
    assert all(unicodedata.category(c)[0] != "C" or unicodedata.category(c) == "Cn" for c in shown)


@given(st.text(alphabet=st.sampled_from("a\x1b[]0;m\x07\\\u202e\r\n")))
def test_escape_sequences_are_gone(value):
    assert not {"\x1b", "\x07", "\u202e", "\r", "\n"} & set(untrusted.line(value))


@pytest.mark.parametrize(
    ("hostile", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]52;c;aGk=\x1b\\text", "text"),
        ("a\u202eb", "ab"),
        ("tab\there", "tab    here"),
    ],
)
def test_known_attacks(hostile, shown):
    assert untrusted.line(hostile) == shown


def test_a_giant_line_is_cut():
    assert len(untrusted.line("x" * 10**7, limit=100)) == 101


def test_a_carriage_return_shows_what_a_terminal_would():
    assert untrusted.block("10%\r100%\nnext") == "100%\nnext"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 10**400, True, "3", None, -1.0, 11.0])
def test_numbers_out_of_range_are_dropped(value):
    assert untrusted.number(value, 0, 10) is None


def test_numbers_in_range_are_kept():
    assert untrusted.number(3, 0, 10) == 3.0
    assert untrusted.whole(3, 0, 10) == 3
    assert untrusted.whole(3.0, 0, 10) is None


@pytest.mark.parametrize("value", ["[1]", "{", "1", '"a"', "[" * 100_000, '{"a":' * 50_000])
def test_only_a_json_object_is_one(value):
    assert untrusted.json_object(value) is None


@pytest.mark.parametrize("name", ["../x", "/x", "a/../b", "a//b", "", ".", "a\\b", "c:x", "a\0b", "a\nb", "x" * 401, "a/./b"])
def test_names_that_leave_their_folder_are_refused(name):
    assert untrusted.file_name(name) is None


@given(st.text())
def test_a_name_that_is_kept_stays_inside(name):
    from pathlib import PurePosixPath

    kept = untrusted.file_name(name)
    if kept is not None:
        path = PurePosixPath(kept)
        assert not path.is_absolute()
        assert ".." not in path.parts
