"""What a Python environment holds, asked from its own interpreter."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final, NamedTuple

from .errors import HostError

__all__ = ["Environment", "look", "orphans"]

_ASK: Final = """
import importlib.metadata, json, sys, sysconfig
found = [
    (d.metadata["Name"], d.version, [text for text in d.requires or [] if "extra ==" not in text])
    for d in importlib.metadata.distributions()
]
print(json.dumps([sys.version_info[:2], sysconfig.get_path("purelib"), sys.prefix, found]))
"""
#: They come with an environment and are no packages of a program.
_TOOLS: Final = ("pip", "setuptools", "wheel")


class Environment(NamedTuple):
    """An environment's Python version, its site-packages, its folder, versions and needs of its packages by name."""

    version: tuple[int, int]
    site: Path
    prefix: Path
    packages: dict[str, str]
    needs: dict[str, set[str]]


def look(python: Path) -> Environment:
    """The environment of an interpreter; HostError where it does not run."""
    try:
        done = subprocess.run([str(python), "-I", "-c", _ASK], capture_output=True, text=True, check=True, timeout=60)
        version, site, prefix, found = json.loads(done.stdout.splitlines()[-1])
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        raise HostError(f"{python} cannot be run ({error}): name the Python that runs Meton with --python.") from error
    packages, needs = {}, {}
    for name, number, requires in found:
        packages[normal(name)] = number
        needs[normal(name)] = {normal(re.split(r"[^\w.-]", text, maxsplit=1)[0]) for text in requires}
    return Environment((version[0], version[1]), Path(site), Path(prefix), packages, needs)


def normal(name: str) -> str:
    """A package's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name or "").lower()


def orphans(found: Environment, names: Iterable[str]) -> list[str]:
    """Those of `names` that no package outside of them needs, nor what they need in turn."""
    going = {normal(name) for name in names} - set(_TOOLS)
    while True:
        kept = set().union(*(needs for name, needs in found.needs.items() if name not in going)) & going
        if not kept:
            return sorted(going)
        going -= kept
