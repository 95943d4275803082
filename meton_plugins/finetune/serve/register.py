"""A GGUF becomes a model of the server: an immutable tag, an alias, and a manifest that is written last."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterable
from datetime import date, datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from ..errors import ConfigError, FinetuneError, ModelError, ServerError
from ..gguf.inspect import sha256_of
from ..paths import Home, check_name, private_dir, write_json
from .modelfile import Modelfile, parameters_overridden_by_meton, to_create_request
from .names import check_model_name

if TYPE_CHECKING:
    from .ollama import Listed, Server, Show

__all__ = ["PREFIX", "Registered", "announced", "find_registered", "keep", "list_registered", "register"]

#: Before each name, so that nobody's own models are ever touched.
PREFIX: Final = "meton-"

_TAG: Final = re.compile(r"v(\d+)-\d{4}-\d\d-\d\d-[0-9a-f]{8}")
_PENDING: Final = ".pending"

Progress = Callable[[int, int], None]


class Registered(BaseModel):
    """The manifest of a registered model; `notes` say what run, dataset, settings and losses it comes from."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    tag: str
    alias: str
    digest: str
    gguf: str
    sha256: str
    bytes: int
    request: str
    when: str
    capabilities: tuple[str, ...] = ()
    overridden: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    notes: dict[str, Any] = {}
    #: When it was removed from the server for good.
    retired: str | None = None
    fresh: bool = False


def register(
    server: Server,
    home: Home,
    gguf: Path,
    name: str,
    modelfile: Modelfile,
    *,
    base: Show | None = None,
    expected_sha: str | None = None,
    notes: dict[str, Any] | None = None,
    check: Callable[[str], str | None] | None = None,
    hashing: Progress | None = None,
    uploading: Progress | None = None,
    status: Callable[[str], None] | None = None,
    today: date | None = None,
    in_slots: Collection[str] = (),
) -> Registered:
    """Make `meton-<name>:v<N>-<date>-<sha8>` of `gguf` and `modelfile`, and `meton-<name>:latest` beside it.

    The same file and Modelfile again find their tag, and do only what a crash had left undone. The version that the
    alias meant before is taken out of the server's memory, unless it is one of `in_slots`. `check(tag)` may raise a
    FinetuneError, which takes the model back, or give a warning.
    """
    check_name(name, "model")
    alias = check_model_name(f"{PREFIX}{name}:latest")
    server.check()
    sha = sha256_of(gguf, hashing)
    if expected_sha is not None and sha != expected_sha:
        raise ModelError(f"{gguf} is not what was exported: export the run again.")
    files = {f"{name}.gguf": f"sha256:{sha}"}
    request = to_create_request(modelfile, "", files)
    identity = hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()
    folder = private_dir(home.models / name)
    listed = {model.name: model for model in server.models()}

    done = next((old for old in _manifests(folder) if old.request == identity), None)
    if done is not None and not done.retired and done.tag in listed and listed[done.tag].digest == done.digest:
        if alias not in listed or listed[alias].digest not in {old.digest for old in _manifests(folder)}:
            _name_also(server, done.tag, alias, done.digest)
        # Killed between manifest and this, it would be called unfinished for ever.
        (folder / f"{_part(done.tag)}{_PENDING}").unlink(missing_ok=True)
        return done.model_copy(update={"fresh": False})

    tag = done.tag if done is not None else _pending_tag(folder, identity, name)
    if tag is None:
        number = 1 + max(_numbers(name, listed, folder), default=0)
        tag = check_model_name(f"{PREFIX}{name}:v{number}-{(today or date.today()).isoformat()}-{sha[:8]}")
        # Announced first: a crash before the manifest would otherwise leave a second version of the same thing.
        write_json(folder / f"{_part(tag)}{_PENDING}", {"tag": tag, "request": identity})
    server.upload(gguf, f"sha256:{sha}", uploading)
    server.create({**request, "model": tag}, status)
    try:
        digest, capabilities, warnings = _verify(server, tag, sha, base)
        if check is not None and (warning := check(tag)):
            warnings.append(warning)
    except FinetuneError:
        with contextlib.suppress(FinetuneError):
            server.delete(tag)
        raise
    _name_also(server, tag, alias, digest)
    _unload_older(server, folder, tag, listed.get(alias), in_slots)
    made = Registered(
        tag=tag,
        alias=alias,
        digest=digest,
        gguf=str(gguf),
        sha256=sha,
        bytes=gguf.stat().st_size,
        request=identity,
        when=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        capabilities=tuple(sorted(capabilities)),
        overridden=tuple(parameters_overridden_by_meton(modelfile)),
        warnings=tuple(warnings),
        notes=notes or {},
        fresh=True,
    )
    keep(home, made)
    (folder / f"{_part(tag)}{_PENDING}").unlink(missing_ok=True)
    return made


def keep(home: Home, made: Registered) -> None:
    """Write the manifest of `made`, new or changed."""
    name = made.tag.removeprefix(PREFIX).partition(":")[0]
    write_json(home.models / name / f"{_part(made.tag)}.json", made.model_dump(mode="json", exclude={"fresh"}))


def list_registered(home: Home) -> list[Registered]:
    """The manifests of all registered models, oldest first."""
    folders = sorted(path for path in home.models.glob("*") if path.is_dir())
    return sorted((made for folder in folders for made in _manifests(folder)), key=lambda made: (made.when, made.tag))


def find_registered(home: Home, name: str) -> Registered | None:
    """The model with the tag `name`, or the newest with this alias, one that is not retired before all that are."""
    found = [made for made in list_registered(home) if name in (made.tag, made.alias)]
    return next((made for made in reversed(found) if not made.retired), found[-1] if found else None)


def announced(home: Home) -> list[str]:
    """The tags of registrations that were begun and not finished."""
    return sorted(_tag_in(path) for folder in home.models.glob("*") for path in folder.glob(f"v*{_PENDING}"))


def _verify(server: Server, tag: str, sha: str, base: Show | None) -> tuple[str, frozenset[str], list[str]]:
    """Digest, capabilities and warnings of the new model; ServerError where it is not what was asked for."""
    listed = server.find(tag)
    if listed is None:
        raise ServerError(f"The server said that it made {tag}, and does not list it: look at its log.")
    show = server.show(tag)
    if show.blob is not None and not show.blob.name.endswith(sha):
        raise ServerError(f"The server made {tag} of another file ({show.blob.name}) than the one it was given.")
    if base is not None and (lost := base.capabilities - show.capabilities - {"vision", "audio"}):
        raise ServerError(
            f"{tag} would lose what {base.name} can do ({', '.join(sorted(lost))}), so it was removed again: "
            "its chat template or renderer did not come through; use a template without a TEMPLATE of its own."
        )
    note = server.try_out(tag)
    if note is None:
        server.unload(tag)
    return listed.digest, show.capabilities, [note] if note else []


def _unload_older(server: Server, folder: Path, tag: str, before: Listed | None, in_slots: Collection[str]) -> None:
    """Free the memory of the version that the alias meant until now: the server would keep it for minutes."""
    for old in _manifests(folder):
        if before is not None and old.digest == before.digest and old.tag not in (tag, *in_slots):
            with contextlib.suppress(FinetuneError):  # the new version is there, whatever becomes of the old one
                server.unload(old.tag)


def _name_also(server: Server, tag: str, alias: str, digest: str) -> None:
    """Give `tag` its alias; a server, or what stands before it, may say 200 and do nothing."""
    server.copy(tag, alias)
    found = server.find(alias)
    if found is None or found.digest != digest:
        raise ServerError(f"The server said that it named {tag} also {alias}, and it did not: look at its log.")


def _manifests(folder: Path) -> list[Registered]:
    found = []
    for path in sorted(folder.glob("v*.json")):
        if not _TAG.fullmatch(path.stem):
            continue
        try:
            found.append(Registered.model_validate_json(path.read_bytes()))
        except ValidationError as error:
            raise ConfigError(f"The manifest {path} cannot be read: move it away and register again.") from error
    return found


def _part(tag: str) -> str:
    return tag.rpartition(":")[2]


def _pending_tag(folder: Path, identity: str, name: str) -> str | None:
    """The tag that a registration of the same thing had announced when it was killed."""
    for path in sorted(folder.glob(f"v*{_PENDING}")):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
            pending = json.loads(path.read_text(encoding="utf-8"))
            if pending["request"] == identity and str(pending["tag"]).startswith(f"{PREFIX}{name}:"):
                return check_model_name(str(pending["tag"]))
    return None


def _tag_in(path: Path) -> str:
    """The tag that an announcement names; the file's own name where it cannot be read."""
    with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
        return str(json.loads(path.read_text(encoding="utf-8"))["tag"])
    return path.name


def _numbers(name: str, listed: Iterable[str], folder: Path) -> Iterable[int]:
    """The version numbers that are taken, on the server and here."""
    tags = [_part(tag) for tag in listed if tag.startswith(f"{PREFIX}{name}:")]
    tags += [path.name.removesuffix(".json").removesuffix(_PENDING) for path in folder.glob("v*")]
    return [int(found[1]) for tag in tags if (found := _TAG.fullmatch(tag))]
