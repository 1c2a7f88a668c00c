"""Holds what a verb printed with `--json` against its documents."""

import json

from pydantic import ValidationError

from lumina_cloud.api.documents.printed import PRINTED


def check(words, stdout):
    """Each line is one of the verb's documents, with every key that the document has and no other."""
    typed = [word for word in words if not word.startswith("-")]
    verb = next(name for name in (" ".join(typed[:2]), typed[0]) if name in PRINTED)
    for line in stdout.splitlines():
        assert any(_is(document, line) for document in PRINTED[verb]), f"{verb} printed what none of its documents is: {line[:400]}"


def _is(document, line):
    try:
        read = document.model_validate_json(line)
    except ValidationError:
        return False
    return read.model_dump(mode="json") == json.loads(line)
