"""What rows need of a tokenizer. The engine's `Model` is one: the base's own, so that training and serving agree."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Tokenizer"]


class Tokenizer(Protocol):
    """Text to token ids and back."""

    def encode(self, text: str, *, start: bool) -> list[int]:
        """Token ids of `text`, special tokens recognised. With `start`, its beginning-of-text token is first."""

    def piece(self, token: int) -> bytes:
        """The bytes that `token` stands for; special tokens give their name."""

    def is_end(self, token: int) -> bool:
        """Whether generation stops at `token`."""

    def is_special(self, token: int) -> bool:
        """Whether `token` is one that text should not contain by accident."""

    @property
    def bos(self) -> int | None:
        """The token that `encode(start=True)` puts first, or None."""
