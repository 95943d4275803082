"""Answers Meton's model calls over loopback, by rules; keeps every request."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, TypeVar

S = TypeVar("S", bound=ThreadingHTTPServer)

#: What Meton puts around the question, and before the latest tool's output.
QUESTION = re.compile(r"\nUser Query: (.*?)\n\nNow, think step by step", re.DOTALL)
AFTER_TOOL = "CRITICAL - READ THIS FIRST"
#: The models of Meton's own config.yaml, as a server lists them.
MODELS = ("qwen2.5-coder:32b", "qwen2.5-instruct-q5_K_M:latest", "qwen3-coder:30b")


class ChatServer(ThreadingHTTPServer):
    """`rules`: (pattern of the question, reply to the first call, reply after a tool). No rule: an echo with the model.

    A reply is sent as it is where it says THOUGHT:, an int as that status, and else in the form that Meton wants.
    """

    daemon_threads = True

    def __init__(self, handler: type[ChatHandler] | None = None) -> None:
        super().__init__(("127.0.0.1", 0), handler or ChatHandler)
        self.models = list(MODELS)
        self.rules: list[tuple[str, str | int, str | int]] = []
        self.requests: list[tuple[str, dict[str, Any]]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def asked(self) -> list[tuple[str, str]]:
        """(model, question) of each call that was one of the agent's."""
        bodies = [body for path, body in self.requests if path == "/api/generate"]
        found = [(body["model"], QUESTION.search(body.get("prompt", ""))) for body in bodies]
        return [(model, match[1]) for model, match in found if match]

    def reply(self, model: str, prompt: str) -> str | int:
        found = QUESTION.search(prompt)
        question = found[1] if found else prompt.strip()
        said: str | int = f"Echo from {model}: {question}"
        for pattern, first, then in self.rules:
            if re.search(pattern, question):
                said = then if AFTER_TOOL in prompt else first
                break
        if isinstance(said, int) or "THOUGHT:" in said:
            return said
        return f"THOUGHT: I know this.\nACTION: NONE\nACTION_INPUT:\nANSWER: {said}"


class ChatHandler(BaseHTTPRequestHandler):
    """Speaks as much of Ollama's API as Meton asks."""

    protocol_version = "HTTP/1.1"
    server: ChatServer

    def log_message(self, *_given: Any) -> None:
        """Quiet."""

    def do_GET(self) -> None:
        if self.path == "/api/version":
            self.send({"version": "0.0.0"})
        elif self.path in ("/api/tags", "/api/ps"):
            rows = [{"name": name, "model": name, "size": 4096, "digest": "0" * 64} for name in self.server.models]
            self.send({"models": rows if self.path == "/api/tags" else []})
        else:
            self.send({"error": "404 page not found"}, 404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers.get("Content-Length") or 0)) or b"{}")
        self.server.requests.append((self.path, body))
        name = body.get("model") or body.get("name")
        if name not in [*self.server.models, *(model.removesuffix(":latest") for model in self.server.models)]:
            self.send({"error": f"model '{name}' not found"}, 404)
        elif self.path == "/api/show":
            self.send({"details": {"family": "fake"}, "model_info": {}, "capabilities": ["completion"]})
        elif self.path in ("/api/generate", "/api/chat"):
            self.generate(name, body)
        else:
            self.send({"error": "404 page not found"}, 404)

    def generate(self, name: str, body: dict[str, Any]) -> None:
        chat = self.path == "/api/chat"
        said = self.server.reply(name, body["messages"][-1]["content"] if chat else body.get("prompt", ""))
        if isinstance(said, int):
            self.send({"error": "scripted failure"}, said)
            return
        text = {"message": {"role": "assistant", "content": said}} if chat else {"response": said}
        self.send(
            {
                "model": name,
                "created_at": "2026-11-22T00:00:00Z",
                "done": True,
                "done_reason": "stop",
                "eval_count": 8,
                **text,
            }
        )

    def send(self, value: Any, status: int = 200) -> None:
        data = json.dumps(value).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/x-ndjson")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def chat_server() -> Iterator[ChatServer]:
    """A server for the length of the block."""
    with serving(ChatServer()) as server:
        yield server


@contextmanager
def serving(server: S) -> Iterator[S]:
    """Serve in a thread for the length of the block."""
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
