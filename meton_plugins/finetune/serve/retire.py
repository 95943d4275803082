"""Retiring a tuned model: it goes from the server, its manifest stays, and what is still needed stays too."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..errors import FinetuneError, NotFound, UsageError
from ..paths import Home, write_json
from ..train.runs import Run, all_runs
from .export_record import read_export
from .names import full_name
from .register import Registered, keep, list_registered

if TYPE_CHECKING:
    from .history import History
    from .ollama import Listed, Server

__all__ = ["Standing", "chosen", "exported_files", "freed", "remove_files", "retire", "retired", "standings"]


class Standing(NamedTuple):
    """A registered model: what the server lists of it, and the `reason` why it must stay; empty where it may go."""

    made: Registered
    listed: Listed | None
    reason: str


def retired(home: Home) -> dict[str, str]:
    """The models that were retired, each with when."""
    return {made.tag: made.retired for made in list_registered(home) if made.retired}


def standings(
    home: Home, server: Server, history: History, file: Path | None, holds: Mapping[str, str]
) -> list[Standing]:
    """Every registered model that was not retired, oldest first. `holds`: what the slots of `file` hold now."""
    listed = {model.name: model for model in server.models()}
    needed = {full_name(model): f"{slot} holds it" for slot, model in holds.items()}
    for model, why in history.in_use(file, holds).items():
        needed.setdefault(full_name(model), why)
    found = []
    for made in list_registered(home):
        if made.retired:
            continue
        alias = listed.get(made.alias)
        # The alias is this version where both name the same manifest.
        names = [made.tag] + ([made.alias] if alias is not None and alias.digest == made.digest else [])
        reasons = [needed[name] for name in names if name in needed]
        reasons += [f"the run {run.name} was trained on it" for run in _trained_on(home, made)]
        found.append(Standing(made, listed.get(made.tag), reasons[0] if reasons else ""))
    return found


def chosen(home: Home, found: Sequence[Standing], names: Sequence[str]) -> list[Standing]:
    """Those of `found` that `names` mean, or all that may go; a FinetuneError names the first that must stay."""
    if not names:
        return [each for each in found if not each.reason]
    picked = [_picked(home, found, full_name(name)) for name in dict.fromkeys(names)]
    for each in picked:
        if each.reason:
            raise UsageError(f"{each.made.tag} stays: {each.reason}. Nothing was removed.")
    return picked


def _picked(home: Home, found: Sequence[Standing], name: str) -> Standing:
    for each in found:
        if each.made.tag == name:
            return each
    versions = [each.made.tag for each in found if each.made.alias == name]
    if versions:
        raise UsageError(f"{name} is another name of the newest version: name versions, such as {versions[0]}.")
    gone = retired(home)
    if name in gone:
        raise NotFound(f"{name} was retired on {gone[name][:10]} already.")
    bases = {str((each.made.notes.get("base") or {}).get("name")): each.made.tag for each in found}
    if name in {full_name(base) for base in bases}:
        raise UsageError(f"{name} stays: it is a base, and tuned models such as {bases[name]} come from it.")
    raise UsageError(f"/model-register made no {name}, so it removes none: `ollama rm {name}` removes any model.")


def freed(found: Iterable[Standing], leaving: Sequence[Standing]) -> int:
    """Bytes that go from the server's disk with `leaving`: a file that another version needs stays."""
    going = {each.made.tag for each in leaving}
    needed = {each.made.sha256 for each in found if each.listed and each.made.tag not in going}
    sizes = {each.made.sha256: each.made.bytes for each in leaving if each.listed}
    return sum(size for sha256, size in sizes.items() if sha256 not in needed)


def retire(home: Home, server: Server, made: Registered) -> None:
    """Remove `made` from the server and mark its manifest; killed at any point, the same again finishes."""
    listed = {model.name: model for model in server.models()}
    alias = listed.get(made.alias)
    if alias is not None and alias.digest == made.digest:
        others = [one for one in list_registered(home) if one.alias == made.alias and one.tag != made.tag]
        left = [one.tag for one in others if not one.retired and one.tag in listed]
        server.copy(left[-1], made.alias) if left else server.delete(made.alias)
    if made.tag in listed:
        with contextlib.suppress(FinetuneError):  # it only frees memory, and some servers cannot run models
            server.unload(made.tag)
        server.delete(made.tag)
    keep(home, made.model_copy(update={"retired": datetime.now(timezone.utc).isoformat(timespec="seconds")}))


def exported_files(home: Home, leaving: Sequence[Registered]) -> list[Path]:
    """The exported GGUF files of `leaving` that nothing else needs; never a file of the user's own."""
    tags = {made.tag for made in leaving}
    needed = {Path(made.gguf) for made in list_registered(home) if made.tag not in tags and not made.retired}
    needed |= {Path(run.record.base.path) for run in all_runs(home.runs)}
    files = dict.fromkeys(Path(made.gguf) for made in leaving)
    return [path for path in files if home.models in path.parents and path.is_file() and path not in needed]


def remove_files(files: Sequence[Path]) -> None:
    """Delete exported files, and their lines in export.json, that nobody looks for them."""
    for path in files:
        export = read_export(path.parent)
        if export is not None:
            export.files = [file for file in export.files if Path(file.path) != path]
            write_json(path.parent / "export.json", export.model_dump())
        path.unlink(missing_ok=True)


def _trained_on(home: Home, made: Registered) -> list[Run]:
    """The runs whose base is `made`: what Ollama keeps of it may be the very file that they need."""
    names = (made.tag, made.alias)
    return [
        run for run in all_runs(home.runs) if run.record.base.sha256 == made.sha256 or run.record.base.name in names
    ]
