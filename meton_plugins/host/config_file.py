"""The model slots of a config.yaml: read, and one of them swapped with not a byte beside it changed."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping
from io import StringIO
from pathlib import Path
from typing import Any, Final

from .errors import HostError

__all__ = ["SLOTS", "ConfigFile"]

#: The slots that Meton knows.
SLOTS: Final = ("primary", "fallback", "quick")

#: A scalar that begins and ends on one line.
_SCALAR: Final = re.compile(r""""(?:[^"\\\n]|\\.)*"|'(?:[^'\n]|'')*'|[^\s#,\[\]{}"'|>&!][^\s,\[\]{}]*""")

#: Read as text by YAML 1.1 (Meton's PyYAML) and 1.2 alike; 12:30 would be a number.
_PLAIN: Final = re.compile(
    r"(?!(?:y|n|yes|no|on|off|true|false|null)\Z)[A-Za-z][A-Za-z0-9_./-]*(?::[A-Za-z0-9_.-]+)?", re.IGNORECASE
)

#: Somebody who holds the lock for longer than this hangs.
_PATIENCE: Final = 10.0


class ConfigFile:
    """A SlotStore over a config.yaml. Comments, order, unknown keys, newlines and the file's mode stay as they are."""

    def __init__(self, path: Path) -> None:
        # A link stays a link: the file that it names is replaced.
        self._path = path.expanduser().resolve()

    @property
    def path(self) -> Path:
        return self._path

    def read(self) -> dict[str, str]:
        """The slots that hold a name; HostError where the file cannot be understood."""
        models = _models(_load(self._text(), self._path), self._path)
        return {slot: str(models[slot]) for slot in SLOTS if isinstance(models.get(slot), str)}

    def write(self, slot: str, model: str, *, expected: str) -> None:
        """Put `model` into `slot`, provided that it still holds `expected`; the file changes whole or not at all."""
        from filelock import FileLock, Timeout

        try:
            lock = FileLock(_lock_path(self._path), timeout=_PATIENCE)
            with lock:
                self._swap(slot, model, expected)
        except Timeout as error:
            raise HostError(f"Another program is writing {self._path}: try again in a moment.") from error
        except OSError as error:
            raise HostError(f"{self._path} cannot be written ({error.strerror or error}): it is as it was.") from error

    def _text(self) -> str:
        try:
            return self._path.read_bytes().decode("utf-8")
        except FileNotFoundError as error:
            raise HostError(
                f"There is no {self._path}: name the host's config.yaml as serve.config in settings.toml."
            ) from error
        except UnicodeDecodeError as error:
            raise HostError(f"{self._path} is not UTF-8 text: save it as UTF-8.") from error
        except OSError as error:
            raise HostError(f"{self._path} cannot be read ({error.strerror or error}).") from error

    def _swap(self, slot: str, model: str, expected: str) -> None:
        text = self._text()
        data = _load(text, self._path)
        models = _models(data, self._path)
        if slot not in models:
            raise HostError(f"{self._path} has no models.{slot}: add a line for it, or choose another slot.")
        if models[slot] != expected:
            raise HostError(
                f"{self._path} holds {str(models[slot])[:100]!r} in models.{slot} and not {expected!r}: "
                "somebody changed it meanwhile, so it stays as it is."
            )
        if model == expected:
            return
        # An editor's or a package's deliberate 0444 also counts for root, whom the system would let through.
        if not self._path.stat().st_mode & 0o222 or not os.access(self._path, os.W_OK):
            raise HostError(
                f"{self._path} is read-only: make it writable, or change models.{slot} to {model} yourself."
            )
        for edited in (_spliced, _dumped):
            candidate = edited(text, slot, model)
            if candidate is not None and _differs_only_in(text, candidate, slot, model):
                _replace(self._path, candidate.encode())
                return
        raise HostError(
            f"{self._path} is written in a way that cannot be edited: put {model} into models.{slot} yourself."
        )


def _load(text: str, path: Path) -> Any:
    """What `text` says, as plain values."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    yaml = YAML(typ="safe", pure=True)
    try:
        return yaml.load(text)
    except YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        problem = str(getattr(error, "problem", None) or "it cannot be parsed").strip()
        raise HostError(f"{path} is not YAML ({problem}{where}): mend it first.") from error
    except (ValueError, RecursionError) as error:
        raise HostError(f"{path} is not YAML that can be read: mend it first.") from error


def _models(data: Any, path: Path) -> Mapping[str, Any]:
    if data is None:
        raise HostError(f"{path} is empty: it should hold the host's settings.")
    if not isinstance(data, Mapping):
        raise HostError(f"{path} holds no settings: its top level should be `name: value` lines.")
    models = data.get("models")
    if not isinstance(models, Mapping):
        raise HostError(f"{path} has no `models:` with primary and fallback under it: add them.")
    return models


def _round_trip() -> Any:
    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.preserve_quotes = True
    yaml.width = 1 << 20
    return yaml


def _spliced(text: str, slot: str, model: str) -> str | None:
    """`text` with the characters of that one value replaced; None where they cannot be found."""
    try:
        line, column = _round_trip().load(text)["models"].lc.value(slot)
        lines = text.splitlines(keepends=True)
        # A BOM is in the text and not in the parser's columns.
        start = sum(map(len, lines[:line])) + column + (line == 0 and text.startswith("\ufeff"))
    except (AttributeError, KeyError, TypeError, IndexError):
        return None
    old = _SCALAR.match(text, start)
    if old is None:
        return None
    quote = old[0][0] if old[0][0] in "\"'" else "" if _PLAIN.fullmatch(model) else '"'
    return f"{text[:start]}{quote}{model}{quote}{text[old.end() :]}"


def _dumped(text: str, slot: str, model: str) -> str:
    """The whole file written anew, comments kept as far as ruamel.yaml can: for anchors and block scalars."""
    yaml, out = _round_trip(), StringIO()
    data = yaml.load(text)
    data["models"][slot] = model
    yaml.dump(data, out)
    return out.getvalue().replace("\n", "\r\n") if "\r\n" in text else out.getvalue()


def _differs_only_in(old: str, new: str, slot: str, model: str) -> bool:
    """Whether `new` says what `old` says, but for that one slot."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        before, after = (YAML(typ="safe", pure=True).load(text) for text in (old, new))
        before["models"] = {**before["models"], slot: model}
    except (YAMLError, ValueError, KeyError, TypeError):
        return False
    return bool(before == after)


def _replace(path: Path, content: bytes) -> None:
    """Put `content` in the place of `path`: synced, same mode and owner, no half file under its name."""
    before = path.stat()
    # The lock is held: an older one is of a process that was killed.
    for stale in path.parent.glob(f".{path.name}.*.meton-tmp"):
        stale.unlink(missing_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.meton-tmp")
    try:
        with os.fdopen(os.open(temporary, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), before.st_mode & 0o7777)
            if (before.st_uid, before.st_gid) != (os.geteuid(), os.getegid()):
                try:
                    os.fchown(file.fileno(), before.st_uid, before.st_gid)
                except PermissionError:
                    os.fchmod(file.fileno(), before.st_mode & 0o777)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _lock_path(path: Path) -> Path:
    """Outside of the host's folder, whose `git status` must stay clean."""
    import platformdirs

    folder = platformdirs.user_data_path("meton-finetune", appauthor=False) / "locks"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder / f"config-{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}.lock"
