"""`/dataset backup` and `restore`: the data folder as one archive, and back."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ..units import many, size
from .edge import note, say, show_json
from .options import Parser, split
from .progress import bar, run_line

if TYPE_CHECKING:
    from ...host.api import Host
    from ..paths import Home

__all__ = ["backup", "restore"]


def backup(host: Host, home: Home, rest: str) -> int:
    """Write one archive of what cannot be made again."""
    parser = Parser(
        prog="/dataset backup",
        description="One archive of library, settings, datasets, run records, adapters and histories. Checkpoints and "
        "merged models are left out: they are large and can be made again.",
    )
    parser.add_argument("file", nargs="?", metavar="FILE", help="a new file, or a folder (default: your home folder)")
    words = parser.parse_args(split(rest))
    from ..serve import backup as service

    target = Path(words.file).expanduser() if words.file else Path.home()
    if target.is_dir():
        target /= service.default_name()
    with bar(host) as tell:
        made = service.backup(home, target, tell)
    if host.json:
        value = {"file": str(made.path), "bytes": made.bytes, "files": made.files}
        show_json(host, {**value, "runs": made.runs, "datasets": made.datasets, "links": made.links})
        return 0
    say(host, f"Backed up to {made.path} ({size(made.bytes)}).", "bold")
    inside = f"{many(made.datasets, 'dataset')} and {many(made.runs, 'run')}"
    note(host, f"{many(made.files, 'file')}, of {inside}; readable by you alone")
    for link in made.links:
        note(host, f"{link} is a link: what it leads to is not in the backup")
    return 0


def restore(host: Host, home: Home, rest: str) -> int:
    """Put a backup in the place of the data folder."""
    parser = Parser(
        prog="/dataset restore",
        description="Check a backup and put it in the place of the data folder. One that holds data is replaced only "
        "with --force, and kept beside.",
    )
    parser.add_argument("file", metavar="FILE", help="what /dataset backup wrote")
    parser.add_argument("--force", action="store_true", help="also where the data folder holds something")
    words = parser.parse_args(split(rest))
    from ..serve import restore as service
    from ..train.runs import all_runs

    with bar(host) as tell:
        restored = service.restore(home, Path(words.file).expanduser(), force=words.force, progress=tell)
    runs = all_runs(home.runs)
    if host.json:
        value = {"folder": str(home.root), "made": restored.record.made, "files": len(restored.record.files)}
        kept = str(restored.kept) if restored.kept else None
        show_json(host, {**value, "kept": kept, "forgotten": restored.forgotten, "runs": [run.name for run in runs]})
        return 0
    say(host, f"Restored {home.root} as it was on {restored.record.made[:16].replace('T', ' ')} UTC.", "bold")
    if restored.kept:
        note(host, f"what was there before lies in {restored.kept}: delete it when you no longer need it")
    if restored.forgotten:
        note(host, f"left out, because you had them forgotten since: {restored.forgotten}")
    width = max((len(run.name) for run in runs), default=0)
    for run in runs:
        say(host, run_line(run, width))
    return 0
