"""How tests/data/f199d7f.tar.gz was made: a user's data folder, by the code of that commit and through its commands.

    git worktree add /tmp/old f199d7f && cd /tmp/old && python .../tests/data/make_older_data.py TARGET.tar.gz

The archive is never made again with newer code: tests/test_older_data.py proves with it that newer code reads what
older code wrote. `home/` is the data folder, `bases/` the two bases of its runs, which lay in another place when the
runs were made, and `expected.json` what the paused runs came to when the same code went on with copies of them.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path.cwd()
sys.path.insert(0, str(ROOT))

from meton_plugins.finetune.engine.jobs import quantize  # noqa: E402
from meton_plugins.finetune.engine.package import installed  # noqa: E402
from meton_plugins.finetune.gguf.tiny import make_tiny  # noqa: E402

SETTINGS = """\
[train]
template = "bare"
threads = 1
lora_rank = 4
lora_alpha = 8.0
learning_rate = 0.002
save_steps = 7
patience = 0
ctx_size = 512

[build]
context_turns = 0

[gate]
fewest = 8
"""
#: Runs by name: the base and how many epochs.
RUNS = {"done": ("f32", 1), "half": ("f32", 12), "half-q8": ("q8_0", 12)}
PAUSE_AT = 12


class Folder:
    """The data folder, and a shell in which its user types."""

    def __init__(self, work: Path) -> None:
        self.work, self.home = work, work / "home"
        self.bases = {kind: work / "bases" / f"tiny-{kind}.gguf" for kind in ("f32", "q8_0")}
        engine = installed().folder
        self.environment = {
            **os.environ, "METON_FINETUNE_HOME": str(self.home), "XDG_DATA_HOME": str(work / "share"), "COLUMNS": "120",
        }  # fmt: skip
        (work / "share" / "meton-finetune").mkdir(parents=True)
        (work / "share" / "meton-finetune" / "engine").symlink_to(engine)

    def type(self, *words: str, home: Path | None = None) -> str:
        """What a command prints."""
        environment = {**self.environment, **({"METON_FINETUNE_HOME": str(home)} if home else {})}
        command = [sys.executable, "-m", "meton_plugins.finetune", *words]
        done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{words}: {done.stdout}{done.stderr}")
        return done.stdout

    def json(self, *words: str) -> Any:
        return json.loads(self.type("--json", *words))

    def state(self, run: str, home: Path | None = None) -> dict[str, Any]:
        path = (home or self.home) / "runs" / run / "state.json"
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path.exists() else {"status": "none", "step": 0}

    def wait(self, run: str, statuses: tuple[str, ...], home: Path | None = None) -> None:
        while self.state(run, home)["status"] not in statuses:
            time.sleep(0.02)
        time.sleep(1)  # its worker lets go of its locks


def conversations(folder: Path) -> None:
    """Chats as Meton writes them, so many that a few are held out."""
    folder.mkdir()
    for number in range(24):
        at = f"2026-04-{number + 1:02d}T09:00:00"
        chat = [
            {"role": "user", "content": f"Which shelf holds part {number}?", "timestamp": at},
            {"role": "assistant", "content": f"Part {number} is on shelf {number * 7 % 23}.", "timestamp": at},
        ]
        session = {"session_id": f"older-{number:02d}", "messages": chat}
        name = f"session_202604{number + 1:02d}_090000_{number:08x}.json"
        (folder / name).write_text(json.dumps(session), encoding="utf-8")


def make(work: Path) -> None:
    """All that the archive holds, in `work`."""
    folder = Folder(work)
    (folder.home / "templates" / "modelfiles").mkdir(parents=True)
    (folder.home / "templates" / "modelfiles" / "bare.Modelfile").write_text("FROM .\n", encoding="utf-8")
    (folder.home / "settings.toml").write_text(SETTINGS, encoding="utf-8")
    (work / "bases").mkdir()
    make_tiny(folder.bases["f32"])
    half = make_tiny(work / "half.gguf", half=True)
    quantize(half, folder.bases["q8_0"], "q8_0")
    conversations(work / "conversations")
    folder.type("dataset", "harvest", "--conversations-dir", str(work / "conversations"))
    ids = [one["id"] for one in folder.json("dataset", "list", "--limit", "100")]
    folder.type("dataset", "rate", "5", *ids[2:])
    folder.type("dataset", "rate", "bad", ids[0])
    folder.type("dataset", "fix", ids[1], "It is on shelf 99, behind the door.")
    folder.type("dataset", "build", "--name", "older", "--base", str(folder.bases["f32"]))
    for name, (kind, epochs) in RUNS.items():
        words = ["finetune", "start", "--yes", "--name", name, "--base", str(folder.bases[kind]), "--dataset", "older"]
        folder.type(*words, "--epochs", str(epochs), *(["--wait"] if name == "done" else []))
        if name != "done":
            while folder.state(name)["step"] < PAUSE_AT:
                time.sleep(0.02)
            folder.type("finetune", "pause", name)
            folder.wait(name, ("paused",))
    folder.type("export", "model", "done", "--quant", "q8_0")
    expected = {}
    copy = Path(shutil.copytree(folder.home, work / "copy"))
    for name in ("half", "half-q8"):
        folder.type("finetune", "resume", name, home=copy)
        folder.wait(name, ("finished",), copy)
        state = folder.state(name, copy)
        expected[name] = {key: state[key] for key in ("step", "loss", "base_loss", "best_loss", "best_step")}
        expected[name]["paused_at"] = folder.state(name)["step"]
    (work / "expected.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    """Write the archive that is named."""
    with tempfile.TemporaryDirectory(prefix="older-data-") as folder:
        work = Path(folder)
        make(work)
        with tarfile.open(Path(sys.argv[1]).resolve(), "w:gz") as archive:
            for name in ("home", "bases", "expected.json"):
                archive.add(work / name, name)


if __name__ == "__main__":
    main()
