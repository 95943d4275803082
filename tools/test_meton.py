"""Tests inside a real Meton: makes three environments in .cache/meton/, then runs the tests in all of them.

METON_HOME names a Meton checkout, which is cloned and never written to.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
#: Everything else that Meton needs to start.
COMMON: Final = ("ollama", "rich", "pyyaml", "pydantic", "networkx")
#: Two generations of langchain, and the NumPy that Meton's requirements.txt asks for.
SETS: Final = {
    "langchain-1": ("langchain>=1,<2", "langgraph>=1,<2", "langchain-ollama>=1,<2"),
    "langchain-0.3": ("langchain>=0.3,<0.4", "langgraph>=0.2,<0.7", "langchain-ollama>=0.3,<0.4"),
    "numpy-1.24": ("langchain>=1,<2", "langgraph>=1,<2", "langchain-ollama>=1,<2", "numpy>=1.23,<1.25"),
}
#: That NumPy has no wheels for newer ones.
OLD_ENOUGH: Final = ("python3.11", "python3.10")
TESTS: Final = (
    "tests/test_meton_host.py", "tests/test_real_meton.py", "tests/test_real_meton_data.py",
    "tests/test_real_meton_session.py",
)  # fmt: skip


def main() -> int:
    home = os.environ.get("METON_HOME", "")
    if not (home and Path(home).expanduser().joinpath("cli.py").is_file()):
        print("Name a Meton checkout: METON_HOME=PATH make test-meton. To get one: git clone "
              "https://github.com/Senchy071/Meton", file=sys.stderr)  # fmt: skip
        return 2
    pythons = [_environment(name, packages) for name, packages in SETS.items()]
    env = {
        **os.environ, "METON_HOME": str(Path(home).expanduser().resolve()), "REQUIRE_METON": "1",
        "METON_PYTHON": os.pathsep.join(map(str, pythons)),
    }  # fmt: skip
    return subprocess.run([sys.executable, "-m", "pytest", *TESTS, *sys.argv[1:]], cwd=ROOT, env=env).returncode


def _environment(name: str, packages: tuple[str, ...]) -> Path:
    """The Python of an environment, made where it is not there whole."""
    folder = ROOT / ".cache" / "meton" / name
    python, ready = folder / "bin" / "python", folder / ".ready"
    if ready.exists() and ready.read_text() == str(packages):
        return python
    print(f"Making {folder} ...", flush=True)
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([_maker(name), "-m", "venv", "--without-pip", str(folder)], check=True)
    pip = [sys.executable, "-m", "pip", "--python", str(python), "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "-q", *packages, *COMMON], check=True)
    ready.write_text(str(packages))
    return python


def _maker(name: str) -> str:
    if not name.startswith("numpy") or sys.version_info < (3, 12):
        return sys.executable
    found = next(filter(None, map(shutil.which, OLD_ENOUGH)), None)
    if found is None:
        sys.exit(
            f"{name} needs {' or '.join(OLD_ENOUGH)} on PATH: Meton's NumPy has no wheels for Python 3.12 and newer."
        )
    return found


if __name__ == "__main__":
    sys.exit(main())
