"""Where an Ollama server is: OLLAMA_HOST as Ollama itself reads it."""

from __future__ import annotations

import ipaddress
import os
from typing import Final
from urllib.parse import urlsplit

from ..errors import UsageError

__all__ = ["is_loopback", "normalize"]

_PORT: Final = 11434


def normalize(host: str | None) -> str:
    """`host`, else OLLAMA_HOST, else the default, as a URL that a client can connect to."""
    text = (host or os.environ.get("OLLAMA_HOST") or "").strip().strip("\"'") or "127.0.0.1"
    typed = "://" in text
    try:
        parts = urlsplit(text if typed else f"http://{text}")
        name, port = parts.hostname or "127.0.0.1", parts.port
        if parts.scheme not in ("http", "https") or parts.username:
            raise ValueError(text)
    except ValueError as error:
        raise UsageError(f"{text[:80]!r} is no server address: write host:port, such as 127.0.0.1:{_PORT}.") from error
    port = port or ({"http": 80, "https": 443}[parts.scheme] if typed else _PORT)
    # A server is told 0.0.0.0 to listen everywhere; a client cannot connect to that on all systems.
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(name, name)
    return f"{parts.scheme}://{f'[{name}]' if ':' in name else name}:{port}{parts.path.rstrip('/')}"


def is_loopback(url: str) -> bool:
    """Whether `url` is this machine, by its name alone."""
    name = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost" or name.endswith(".localhost")
