"""What a host cannot do for its user, said in one sentence."""

from __future__ import annotations

__all__ = ["HostError"]


class HostError(Exception):
    """A sentence for the user: what is wrong with the host's configuration, and what to do."""

    @property
    def sentence(self) -> str:
        """The message on one line."""
        return " ".join(str(self).split())
