"""The examples that the user's conversations gave, and what he thinks of them."""

from __future__ import annotations

from .forgetting import Forgotten
from .records import Example
from .store import Library

__all__ = ["Example", "Forgotten", "Library"]
