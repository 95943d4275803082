"""A dataset: frozen files under a name made from their content."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from ..errors import DataError, NotFound
from ..paths import Home
from .manifest import FILES, MANIFEST, Manifest, Row, read_manifest

__all__ = ["NAMES", "Dataset", "load", "names", "resolve", "versions"]

#: Folder of files that each hold the id of the dataset they are named after.
NAMES: Final = "names"


@dataclass(frozen=True)
class Dataset:
    """A dataset in memory."""

    path: Path
    manifest: Manifest
    train: list[Row]
    validation: list[Row]
    heldout: list[Row]

    @property
    def id(self) -> str:
        return self.manifest.id


def load(path: Path) -> Dataset:
    """The dataset in the folder `path`, every file checked against its hash; DataError where one differs."""
    manifest = read_manifest(path)
    sides: dict[str, list[Row]] = {}
    for file, entry in manifest.files.items():
        try:
            raw = (path / file).read_bytes()
        except FileNotFoundError as error:
            raise DataError(f"The dataset {path} lacks its file {file}: build it again.") from error
        if hashlib.sha256(raw).hexdigest() != entry.sha256:
            raise DataError(f"{path / file} was changed after it was frozen: build the dataset again.")
        for split, name in FILES.items():
            if name == file:
                sides[split] = [Row.model_validate(json.loads(line)) for line in raw.split(b"\n") if line]
    return Dataset(path, manifest, sides.get("train", []), sides.get("validation", []), sides.get("heldout", []))


def resolve(home: Home, name: str = "latest") -> Path:
    """The folder of a dataset by id, by the beginning of one, by given name, by path, or the one built last."""
    if "/" in name and (Path(name) / MANIFEST).exists():
        return Path(name)
    ids = {path.name: path for path in _folders(home)}
    if not ids:
        raise NotFound("There is no dataset yet: make one with /dataset build.")
    if name == "latest":
        return max(ids.values(), key=lambda path: ((path / MANIFEST).stat().st_mtime_ns, path.name))
    named = names(home).get(name)
    if named in ids:
        return ids[named]
    found = [path for known, path in ids.items() if name and known.startswith(name.lower())]
    if len(found) == 1:
        return found[0]
    if found:
        raise NotFound(f"More than one dataset begins with {name!r}: type more of its id.")
    raise NotFound(f"There is no dataset {name[:80]!r}: see /dataset versions.")


def versions(home: Home) -> list[Manifest]:
    """All datasets, the one built last first; a damaged one is left out."""
    found = []
    for path in sorted(_folders(home), key=lambda path: (path / MANIFEST).stat().st_mtime_ns, reverse=True):
        try:
            found.append(read_manifest(path))
        except DataError:
            continue
    return found


def names(home: Home) -> dict[str, str]:
    """Given name to id."""
    folder = home.datasets / NAMES
    if not folder.is_dir():
        return {}
    paths = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    return {path.name: path.read_text(encoding="utf-8").strip() for path in paths}


def _folders(home: Home) -> list[Path]:
    if not home.datasets.is_dir():
        return []
    return [path for path in home.datasets.iterdir() if (path / MANIFEST).exists() and not path.name.startswith(".")]
