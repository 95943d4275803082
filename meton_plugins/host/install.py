"""Makes a checkout's own `./meton` and `python meton.py` load a plugin, and takes that back.

Two small files go into the site-packages of Meton's environment, a marker into a folder of the checkout that git
ignores. Packages are added, none is changed: pip is held to every version that is there.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from .environment import Environment, look, orphans
from .errors import HostError
from .hook import FOLDER, INSTALLED, MARKER
from .launch import refusal, root

__all__ = ["Removed", "install", "uninstall"]

PTH: Final = "meton-plugins.pth"
#: Beside the hook: which checkouts use it, and which packages came with it.
RECORD: Final = "_meton_plugins_hook.json"


class Removed(NamedTuple):
    """What `uninstall` took away, and what of the plugin's is still there."""

    gone: list[str]
    left: list[str]


def install(checkout: Path, python: Path, plugin: Mapping[str, Any], requirements: Sequence[str]) -> list[str]:
    """Make `checkout` load `plugin` (id, entry_point, data_folder) in `python`; each line says what was touched."""
    lacks = refusal(checkout)
    if lacks:
        raise HostError(lacks)
    found = look(python)
    if found.version < (3, 10):
        raise HostError(f"{python} is Python {found.version[0]}.{found.version[1]}: the plugin needs 3.10 or newer.")
    added = _add_packages(python, found, requirements)
    record = _record(found)
    record["checkouts"] = sorted({*record["checkouts"], str(checkout)})
    record["packages"] = {**record["packages"], **added}
    marker = _marker(checkout, plugin)
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.parent.chmod(0o700)
    try:
        hook = found.site / f"{INSTALLED}.py"
        shutil.copyfile(Path(__file__).with_name("hook.py"), hook)
        (found.site / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        (found.site / PTH).write_text(f"import {INSTALLED}\n", encoding="utf-8")
    except OSError as error:
        raise HostError(f"{found.site} cannot be written ({error.strerror}): {_whose(python)}.") from error
    # Written last: from here on the checkout loads the plugin.
    said = {**plugin, "root": str(root()), "python": str(python)}
    marker.write_text(json.dumps(said, indent=1) + "\n", encoding="utf-8")
    marker.chmod(0o600)
    packages = ", ".join(f"{name} {version}" for name, version in sorted(added.items()))
    return [
        f"packages added to {found.prefix}: {packages or 'none'} (no version changed)",
        *(f"written: {path}" for path in (hook, found.site / PTH, found.site / RECORD, marker)),
    ]


def uninstall(
    checkout: Path, python: Path | None, plugin: Mapping[str, Any], data: Path, *, purge: bool
) -> Removed:  # fmt: skip
    """Take `install` back, also where the environment is gone. `data`, the plugin's folder, goes only with `purge`.

    `python`: that of the environment, None for the one that `install` noted. HostError, and nothing touched, where it
    looks like a slip.
    """
    marker = _marker(checkout, plugin)
    python = _whole(checkout, python, marker, anyway=purge and data.exists())
    gone: list[str] = []
    left: list[str] = []
    _drop(marker, gone)
    if python is None:
        left.append("the hook, in an environment that is not known here: `uninstall --python PATH` takes it out")
    else:
        _leave(checkout, python, gone, left)
    if purge and data.exists():
        shutil.rmtree(data)
        gone.append(f"{data} (library, datasets, runs, models)")
    if marker.parent.is_dir() and not any(marker.parent.iterdir()):
        marker.parent.rmdir()
        if not any(marker.parent.parent.iterdir()):  # Meton makes it when it needs it
            marker.parent.parent.rmdir()
    if data.exists():
        left.insert(0, f"{data} (library, datasets, runs, models: `uninstall --purge` deletes it)")
    return Removed(gone, left)


def _leave(checkout: Path, python: Path, gone: list[str], left: list[str]) -> None:
    """Take out of an environment what nobody else uses there; one that is gone, or broken, ends nothing."""
    prefix = python.parent.parent
    if not prefix.is_dir():
        gone.append(f"{prefix} (the environment was deleted before, and what `install` had put there with it)")
        return
    try:
        found = look(python)
    except HostError:
        left.append(f"what `install` put into {prefix}: its Python does not run any more, so delete that environment")
        return
    record = _record(found)
    record["checkouts"] = [other for other in record["checkouts"] if other != str(checkout)]
    if record["checkouts"]:
        (found.site / RECORD).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        left += [f"the hook in {found.site}: also used by {other}" for other in record["checkouts"]]
        return
    for name in (PTH, f"{INSTALLED}.py", RECORD):
        _drop(found.site / name, gone)
    gone += _remove_packages(python, found, record["packages"])


def _whole(checkout: Path, python: Path | None, marker: Path, *, anyway: bool) -> Path | None:
    """The Python whose environment has the hook: `python`, or the one that the marker notes; None where unknown."""
    try:
        noted = Path(str(json.loads(marker.read_text(encoding="utf-8"))["python"]))
    except (OSError, ValueError, KeyError, TypeError):
        noted = None
    if python is None:
        if noted is None and not marker.exists() and not anyway:
            raise HostError(f"{checkout} has no venv/ and no plugin: name the Python that runs Meton with --python.")
        return noted
    if not python.is_file() and (not marker.exists() or (noted is not None and noted.is_file())):
        # A slip of the hand: the hook would stay where it is, and nobody would know.
        known = f": the plugin was installed with --python {noted}" if noted else ""
        raise HostError(f"There is no {python}{known}.")
    return python


def _marker(checkout: Path, plugin: Mapping[str, Any]) -> Path:
    return checkout / FOLDER / str(plugin["id"]) / MARKER


def _drop(path: Path, gone: list[str]) -> None:
    if path.exists():
        path.unlink()
        gone.append(str(path))


def _record(found: Environment) -> dict[str, Any]:
    try:
        said = json.loads((found.site / RECORD).read_text(encoding="utf-8"))
        return {"checkouts": list(said["checkouts"]), "packages": dict(said["packages"])}
    except (OSError, ValueError, KeyError, TypeError):
        return {"checkouts": [], "packages": {}}


def _add_packages(python: Path, found: Environment, requirements: Sequence[str]) -> dict[str, str]:
    """Install what is missing; the versions that came. HostError where a version would have to change."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt", encoding="utf-8") as file:
        file.writelines(f"{name}=={version}\n" for name, version in found.packages.items())
        file.flush()
        done = _pip(python, "install", "--quiet", "--constraint", file.name, *requirements)
    if done.returncode:
        said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        reason = next((line for line in said if "ERROR" in line), said[-1] if said else "pip said nothing")
        raise HostError(f"Packages cannot be added to {found.prefix} ({reason[:300]}): {_whose(python)}.")
    after = look(python).packages
    changed = [name for name, version in found.packages.items() if after.get(name) != version]
    if changed:
        raise HostError(f"pip changed {', '.join(changed)} in {found.prefix}, against its orders: see `pip list`.")
    return {name: version for name, version in after.items() if name not in found.packages}


def _remove_packages(python: Path, found: Environment, added: Mapping[str, str]) -> list[str]:
    """Remove what `install` added, but for what others need by now or what has another version since."""
    ours = [name for name, version in added.items() if found.packages.get(name) == version]
    names = orphans(found, ours)
    if not names:
        return []
    done = _pip(python, "uninstall", "--quiet", "--yes", *names)
    return [f"packages in {found.prefix}: {', '.join(names)}"] if done.returncode == 0 else []


def _pip(python: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    own = [str(python), "-m", "pip"]
    if subprocess.run([*own, "--version"], capture_output=True, check=False).returncode:
        own = [sys.executable, "-m", "pip", "--python", str(python)]  # an environment that was made without pip
    command = [*own, "--disable-pip-version-check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)


def _whose(python: Path) -> str:
    return f"use an environment of Meton's own, and name its Python with --python (this was {python})"
