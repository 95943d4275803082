"""Turn daily chats with a local assistant into a better local model."""

from typing import Final

__all__ = ["__version__"]
__version__: Final = "0.1.0"
