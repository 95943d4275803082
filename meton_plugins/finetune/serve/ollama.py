"""The Ollama server, as far as a tuned model needs it. Every way it can fail becomes one ServerError sentence."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..errors import NotFound, ServerError
from .address import is_loopback, normalize
from .answers import Answer, CannotGenerate, Listed, Show, error_text, plain_words, version_of
from .names import check_model_name, full_name

if TYPE_CHECKING:
    import httpx
    import ollama

__all__ = ["MINIMUM", "TESTED", "Answer", "Listed", "Server", "Show", "check_model_name"]

#: The first version whose create keeps a base's RENDERER and PARSER; without them its tools are lost.
MINIMUM: Final = (0, 12, 0)

#: The version that this code was tested with.
TESTED: Final = "0.34"

#: Large enough that a 5 GB upload makes few calls, small enough that its progress moves.
_CHUNK: Final = 1 << 20

Progress = Callable[[int, int], None]


class Server:
    """One Ollama server. Nothing is sent before the first call, and nothing is ever pulled."""

    def __init__(self, host: str | None = None) -> None:
        self.url = normalize(host)

    @property
    def warning(self) -> str | None:
        """A sentence where the server is not this machine."""
        if is_loopback(self.url):
            return None
        return f"The Ollama server {self.url} is not on this machine: models and questions leave it for there."

    @cached_property
    def _http(self) -> httpx.Client:
        import httpx

        # A proxy of the environment must not see what goes to this machine.
        return httpx.Client(base_url=self.url, timeout=self._timeout(60), trust_env=not is_loopback(self.url))

    @cached_property
    def _client(self) -> ollama.Client:
        import ollama

        return ollama.Client(self.url, timeout=self._timeout(600), trust_env=not is_loopback(self.url))

    def _timeout(self, read: float) -> httpx.Timeout:
        import httpx

        return httpx.Timeout(read, connect=5, write=600)

    def close(self) -> None:
        """Let go of the connections."""
        for name in ("_http", "_client"):
            if (client := self.__dict__.pop(name, None)) is not None:
                client.close()

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @contextmanager
    def _plain(self, doing: str) -> Iterator[None]:
        """Whatever goes wrong inside, as one ServerError (NotFound for a model that is not there)."""
        import httpx
        import ollama

        try:
            yield
        except ollama.ResponseError as error:
            raise self._failure(doing, error.error, error.status_code) from error
        except (ConnectionError, httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise ServerError(
                f"No Ollama server answers at {self.url}: start it with `ollama serve`, "
                "or name another with OLLAMA_HOST."
            ) from error
        except httpx.TimeoutException as error:
            raise ServerError(f"The Ollama server at {self.url} took too long while {doing}: try again.") from error
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise ServerError(
                f"The connection to the Ollama server at {self.url} broke while {doing} ({error}): "
                "look at the server's log and try again."
            ) from error
        except (httpx.DecodingError, ValueError, LookupError, TypeError, AttributeError) as error:
            # Pydantic's ValidationError is a ValueError.
            raise self._unknown(doing) from error

    def _failure(self, doing: str, text: str, status: int) -> ServerError | NotFound:
        return plain_words(doing, str(text), status, self._version_seen)

    def _unknown(self, doing: str) -> ServerError:
        return ServerError(
            f"The server at {self.url} gave an answer that is not known here while {doing}: it says that it is "
            f"Ollama {self._version_seen}, and meton-finetune was tested with {TESTED}."
        )

    @cached_property
    def _version_seen(self) -> str:
        try:
            return str(self._http.get("/api/version").json()["version"])
        except Exception:
            return "of unknown version"

    def version(self) -> str:
        """The server's version; ServerError where it is away, or no Ollama."""
        with self._plain("asking its version"):
            answer = self._http.get("/api/version")
            if answer.status_code != 200:
                raise ValueError(answer.text)
            seen = answer.json()["version"]
            if not isinstance(seen, str):
                raise TypeError(seen)
        return seen

    def check(self) -> str:
        """The server's version; ServerError where it is away or too old for a tuned model."""
        seen = self.version()
        number = version_of(seen)
        if number is not None and number < MINIMUM:
            least = ".".join(map(str, MINIMUM))
            raise ServerError(
                f"Ollama {seen} at {self.url} is too old: from {least} on a tuned model keeps its base's renderer and "
                "parser, and with them its tools; update Ollama."
            )
        return seen

    def models(self) -> list[Listed]:
        """All models that the server has."""
        with self._plain("listing its models"):
            answer = self._client.list()
            return [Listed(full_name(m.model or ""), m.digest or "", int(m.size or 0)) for m in answer.models]

    def find(self, name: str) -> Listed | None:
        """The model whose name is exactly `name`, tag included."""
        return next((model for model in self.models() if model.name == name), None)

    def exists(self, name: str) -> bool:
        """Whether the server lists exactly `name`, tag included."""
        return self.find(name) is not None

    def loaded(self) -> dict[str, int]:
        """The models in this machine's memory now, and the bytes that each holds there; what a GPU holds is not it."""
        with self._plain("asking what it has loaded"):
            found = self._http.get("/api/ps").json().get("models") or []
            sizes = {str(one["name"]): int(one.get("size") or 0) - int(one.get("size_vram") or 0) for one in found}
            return {name: size for name, size in sizes.items() if size > 0}

    def render(self, path: str, request: dict[str, Any]) -> str | None:
        """The text that the server makes of a chat or generate `request`; None where it cannot say. Loads the model."""
        doing = f"rendering a prompt of {request['model']}"
        # A server that does not know the word answers instead: with one token.
        asked = {**request, "_debug_render_only": True, "stream": False, "options": {"num_predict": 1}}
        with self._plain(doing):
            reply = self._http.post(path, json=asked, timeout=self._timeout(120))
            if reply.status_code != 200:
                raise self._failure(doing, error_text(reply.text), reply.status_code)
            text = (reply.json().get("_debug_info") or {}).get("rendered_template")
            return text if isinstance(text, str) else None

    def show(self, name: str) -> Show:
        """What the server says about `name`; NotFound where it has no such model."""
        with self._plain(f"showing {name}"):
            # By hand: the `ollama` package drops fields that it does not know (`system`, `remote_host`).
            reply = self._http.post("/api/show", json={"model": name})
            if reply.status_code != 200:
                raise self._failure(f"showing {name}", error_text(reply.text), reply.status_code)
            answer = reply.json()
            details = answer.get("details") or {}
            return Show(
                name=name,
                modelfile=answer.get("modelfile") or "",
                template=answer.get("template") or "",
                system=answer.get("system") or "",
                parameters=answer.get("parameters") or "",
                license=answer.get("license") or "",
                capabilities=frozenset(answer.get("capabilities") or ()),
                family=details.get("family") or "",
                format=details.get("format") or "",
                quantization=details.get("quantization_level") or "",
                remote=bool(answer.get("remote_host")),
            )

    def has_blob(self, digest: str) -> bool:
        """Whether the server has the file of that digest (`sha256:…`)."""
        with self._plain("looking for a file"):
            return bool(self._http.head(f"/api/blobs/{digest}").status_code == 200)

    def upload(self, path: Path, digest: str, progress: Progress | None = None) -> bool:
        """Give the server the file at `path`. False where it had it. `progress` gets (bytes done, all)."""
        total = path.stat().st_size
        tell = progress or (lambda _done, _all: None)
        if self.has_blob(digest):
            tell(total, total)
            return False
        doing = f"uploading {path.name}"
        with self._plain(doing):
            import httpx

            try:
                answer = self._http.post(
                    f"/api/blobs/{digest}",
                    content=_chunks(path, total, tell),
                    headers={"Content-Length": str(total), "Content-Type": "application/octet-stream"},
                    timeout=self._timeout(600),
                )
            except httpx.TransportError:
                # A server that has the file by now may answer before it reads the body.
                if not self.has_blob(digest):
                    raise
                return True
            if answer.status_code not in (200, 201):
                raise self._failure(doing, error_text(answer.text), answer.status_code)
        if not self.has_blob(digest):
            raise ServerError(f"The server took {path.name} and does not have it: look at its log and its disk.")
        return True

    def create(self, request: dict[str, Any], status: Callable[[str], None] | None = None) -> None:
        """Make a model of a create request. Anything that does not end in `success` is a ServerError."""
        doing, last = f"creating {request['model']}", ""
        long = self._timeout(600)
        with self._plain(doing), self._http.stream("POST", "/api/create", json=request, timeout=long) as answer:
            if answer.status_code != 200:
                answer.read()
                raise self._failure(doing, error_text(answer.text), answer.status_code)
            for line in answer.iter_lines():
                if not line.strip():
                    continue
                event = json.loads(line)
                if "error" in event:
                    raise self._failure(doing, str(event["error"]), -1)
                last = str(event["status"])
                if status:
                    status(last)
        if last != "success":
            raise ServerError(
                f"The Ollama server stopped after {last or 'nothing'!r} while {doing}: "
                "look at its log and its disk, and try again."
            )

    def copy(self, source: str, target: str) -> None:
        """Give a model a second name; costs nothing."""
        with self._plain(f"naming {source} also {target}"):
            self._client.copy(source, target)

    def delete(self, name: str) -> None:
        """Remove a model's name, and its files where nothing else uses them."""
        with self._plain(f"deleting {name}"):
            self._client.delete(name)

    def unload(self, name: str) -> None:
        """Take a model out of memory."""
        with self._plain(f"unloading {name}"):
            self._client.generate(name, prompt="", keep_alive=0)

    def generate(self, name: str, prompt: str, *, raw: bool = False, options: dict[str, Any] | None = None) -> Answer:
        """One whole answer. CannotGenerate where the server has no program to run models with."""
        with self._plain(f"asking {name}"):
            answer = self._client.generate(name, prompt=prompt, raw=raw, options=options or {}, stream=False)
            if not answer.done:
                raise ServerError(f"The server stopped in the middle of an answer of {name}: look at its log.")
            seconds = (answer.eval_duration or 0) / 1e9
            return Answer(answer.response or "", answer.eval_count or 0, answer.done_reason or "", seconds)

    def try_out(self, name: str) -> str | None:
        """Make `name` answer eight tokens. None when it did, a note where the server cannot run any model."""
        try:
            answer = self.generate(name, "Hello", options={"num_predict": 8, "temperature": 0, "seed": 1})
        except CannotGenerate as error:
            return error.sentence
        if not answer.tokens:
            raise ServerError(f"{name} loads and answers nothing: its template or its stops end every answer at once.")
        return None


def _chunks(path: Path, total: int, tell: Progress) -> Iterator[bytes]:
    done = 0
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            done += len(chunk)
            yield chunk
            tell(done, total)
