"""A server before a real Ollama: it logs every request, and makes Meton's prompts short enough for a tiny model.

Meton sends 56,000 characters with each question, more than a model of two million weights can read. So a question to
a model of the real server is asked there in the compact form that it was trained on; the reply is that model's own.
Only `scripted` models, the base that has learned nothing, answer by rules. All else goes on as it is.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from meton_plugins.finetune import form

from .chat_server import QUESTION, ChatHandler, ChatServer, serving

#: A request to our own machine goes through no proxy.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class OllamaFront(ChatServer):
    """Stands before the Ollama at `behind`. `log` has (path, model) of each request that names a model."""

    def __init__(self, behind: str, scripted: tuple[str, ...]) -> None:
        super().__init__(_Front)
        self.behind, self.scripted = behind, scripted
        self.log: list[tuple[str, str]] = []


class _Front(ChatHandler):
    server: OllamaFront

    def do_GET(self) -> None:
        self._pass_on(None)

    def do_HEAD(self) -> None:
        self._pass_on(None)

    def do_DELETE(self) -> None:
        self._pass_on(self._body())

    def do_POST(self) -> None:
        raw = self._body()
        if self.path.startswith("/api/blobs/"):
            self._pass_on(raw)
            return
        body = json.loads(raw or b"{}")
        name = str(body.get("model") or body.get("name") or "")
        self.server.log.append((self.path, name))
        self.server.requests.append((self.path, body))
        asked = QUESTION.search(body.get("prompt") or "") if self.path == "/api/generate" else None
        if asked is None:
            self._pass_on(raw)
        elif name in self.server.scripted:
            self.generate(name, body)
        else:
            options = {"temperature": 0, "num_predict": 120}
            own = form.prompt(asked[1], offered=form.tools_in(str(body["prompt"])))
            short = {"model": name, "prompt": own, "stream": False, "options": options}
            self._pass_on(json.dumps(short).encode())

    def _body(self) -> bytes:
        if "chunked" not in (self.headers.get("Transfer-Encoding") or "").lower():
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _pass_on(self, body: bytes | None) -> None:
        request = urllib.request.Request(self.server.behind + self.path, body, method=self.command)
        request.add_header("Content-Type", self.headers.get("Content-Type") or "application/json")
        try:
            with _OPENER.open(request, timeout=120) as answer:
                status, data, kind = answer.status, answer.read(), answer.headers.get("Content-Type")
        except urllib.error.HTTPError as error:
            with error:
                status, data, kind = error.code, error.read(), error.headers.get("Content-Type")
        self.send_response(status)
        self.send_header("Content-Type", kind or "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextmanager
def ollama_front(behind: str, *scripted: str) -> Iterator[OllamaFront]:
    """A front for the length of the block."""
    with serving(OllamaFront(behind, scripted)) as server:
        yield server
