"""A dataset, planned, frozen and found again: `frozen` alone reads one, without what a build needs."""

from __future__ import annotations

from .build import Plan, build, plan
from .frozen import Dataset, load, names, resolve, versions
from .manifest import Manifest, Row, read_manifest

__all__ = [
    "Dataset",
    "Manifest",
    "Plan",
    "Row",
    "build",
    "load",
    "names",
    "plan",
    "read_manifest",
    "resolve",
    "versions",
]
