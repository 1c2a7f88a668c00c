"""Foreign text in Markdown stays text."""

from lumina_cloud.core import markdown


def test_markdown_of_foreign_text():
    assert markdown.plain("a|b `c` <d>\n# e\x1b[2J") == "a\\|b \\`c\\` \\<d\\>\\# e"
    assert markdown.fenced("x\n````\ny").startswith("`````text\n")
    assert markdown.quoted('a: "b"\n- c') == '"a: \\"b\\"- c"'
