"""Request/response pairs of every endpoint that the clients use, and a transport that plays them.

They are written by the clouds' published API pages: nobody here could record a live account. `tests/providers/shapes.py` says
independently of them, and of the clients, what each request and each reply must hold.
"""

import json
from pathlib import Path

import httpx

HERE = Path(__file__).parent


def load(provider):
    """Return a provider's pairs by their name."""
    return {pair["name"]: pair for pair in json.loads((HERE / f"{provider}.json").read_text())}


def reply(pair):
    """Return a pair's response as httpx has it."""
    said = pair["response"]
    if "text" in said:
        return httpx.Response(said["status"], text=said["text"], headers=said.get("headers"))
    return httpx.Response(said["status"], json=said["body"], headers=said.get("headers"))


class Played(httpx.BaseTransport):
    """Answers requests with pairs in their order, and fails on a request that is not the pair's."""

    def __init__(self, provider, *names):
        self._pairs = [load(provider)[name] for name in names]
        self.sent = []

    def handle_request(self, request):
        assert self._pairs, f"one request too many: {request.method} {request.url}"
        pair = self._pairs.pop(0)
        asked, url = pair["request"], request.url
        path = url.path if asked["path"].startswith("/") else str(url)
        assert (request.method, path) == (asked["method"], asked["path"])
        assert dict(url.params) == asked.get("query", {})
        body = json.loads(request.read() or b"null")
        assert same(body, asked.get("body")), f"{pair['name']}: sent {body}"
        self.sent.append((request, body))
        return reply(pair)

    def close(self):
        pass

    @property
    def done(self):
        return not self._pairs


def same(sent, wanted):
    """Whether two bodies are equal; ANY stands for a text."""
    if wanted == "ANY":
        return isinstance(sent, str)
    if isinstance(wanted, dict) and isinstance(sent, dict):
        return sent.keys() == wanted.keys() and all(same(sent[k], wanted[k]) for k in wanted)
    if isinstance(wanted, list) and isinstance(sent, list):
        return len(sent) == len(wanted) and all(same(a, b) for a, b in zip(sent, wanted, strict=True))
    return sent == wanted and type(sent) in (type(wanted), float, int, type(None), str, bool)
