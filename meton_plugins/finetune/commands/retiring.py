"""`/model-register retire`: remove registered models that nothing needs."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import UsageError
from ..units import many
from ..units import size as in_units
from .edge import note, say, show_json
from .places import history_of, home_of, minute, server_of

if TYPE_CHECKING:
    from pathlib import Path

    from ...host.api import Host
    from ..serve.retire import Standing

__all__ = ["retire"]


def retire(host: Host, given: argparse.Namespace) -> int:
    """Remove the named models, or all that nothing needs, from the server; 1 where the user said no."""
    from ..serve import retire as service

    home = home_of(host)
    file, holds = (host.slots.path, host.slots.read()) if host.slots is not None else (None, {})
    with server_of(host) as server:
        found = service.standings(home, server, history_of(host), file, holds)
        leaving = service.chosen(home, found, given.models)
        staying = [each for each in found if each.reason]
        if leaving and not _agreed(host, leaving, service.freed(found, leaving), given):
            return 1
        for each in leaving:
            service.retire(home, server, each.made)
            say(host, f"Retired {each.made.tag}.", "green")
    files = service.exported_files(home, [each.made for each in leaving])
    sizes = {str(path): path.stat().st_size for path in files}
    removed = bool(files) and _files_too(host, files, sum(sizes.values()), given)
    if removed:
        service.remove_files(files)
        say(host, f"Deleted {many(len(files), 'exported file')} ({in_units(sum(sizes.values()))}).")
    if host.json:
        stay = [{"model": each.made.tag, "reason": each.reason} for each in staying]
        tags = [each.made.tag for each in leaving]
        show_json(host, {"retired": tags, "stay": stay, "files": sizes, "files_deleted": removed})
    elif not given.models:
        if not leaving:
            say(host, "No registered model can go.")
        for each in staying:
            note(host, f"{each.made.tag} stays: {each.reason}.")
    return 0


def _agreed(host: Host, leaving: Sequence[Standing], freed: int, given: argparse.Namespace) -> bool:
    if given.yes:
        return True
    for each in leaving:
        gone = "" if each.listed else ", the server does not have it any more"
        say(host, f"{each.made.tag}  {in_units(each.made.bytes)}, registered {minute(each.made.when)}{gone}")
    models = many(len(leaving), "model")
    answer = host.ask(f"Remove {models} from the Ollama server, which frees up to {in_units(freed)} there?")
    if answer is None:
        raise UsageError(f"Nobody can be asked here whether {models} may go: add --yes to do it.")
    if not answer:
        say(host, "Nothing was removed.")
    return answer


def _files_too(host: Host, files: Sequence[Path], size: int, given: argparse.Namespace) -> bool:
    if given.files or given.yes:
        return bool(given.files)
    for path in files:
        note(host, str(path))
    one = "it" if len(files) == 1 else "them"
    question = f"Delete {many(len(files), 'exported file')} too ({in_units(size)})? /export model writes {one} again."
    return bool(host.ask(question))
