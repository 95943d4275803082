"""How `/dataset` shows its results to people: all views under one name."""

from __future__ import annotations

from .build_views import built, funnel, harvested, versioned
from .library_views import counted, listed, shown

__all__ = ["built", "counted", "funnel", "harvested", "listed", "shown", "versioned"]
