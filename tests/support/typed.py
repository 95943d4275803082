"""`/dataset` as a user types it, and homes with runs in them that need no engine."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

from rich.console import Console

from meton_plugins.finetune.commands.dataset import ALIASES, make
from meton_plugins.finetune.paths import Home, private_dir, write_json
from meton_plugins.finetune.settings import TrainSettings
from meton_plugins.finetune.train.record import BaseRecord, RunRecord
from meton_plugins.finetune.train.runs import Run

from .host import RecordingHost, User

#: Conversations as Meton keeps them, of 44 answers that can be taken in.
EXAMPLES = Path(__file__).parent.parent.parent / "examples" / "conversations"


class Typed(User):
    """A user of /dataset. `answers` are his to questions."""

    def __init__(self, root: Path, *answers: bool, conversations: Path | None = None) -> None:
        self.home = Home(root)
        host = RecordingHost(root, conversations_dir=conversations, answers=answers)
        super().__init__(host, make(host, self.home))

    def __call__(self, line: str, code: int = 0) -> str:
        """The output of `line`, typed after /dataset, or of a short form."""
        word, _, rest = line.partition(" ")
        return super().__call__(f"{ALIASES[word]} {rest}" if word in ALIASES else line, code)

    def terminal(self, line: str, width: int = 80) -> str:
        """The output on a terminal with colours."""
        plain, stream = self.host.console, io.StringIO()
        self.host.console = Console(file=stream, width=width, force_terminal=True, color_system="standard")
        try:
            assert self.command.run(line) == 0, stream.getvalue()
        finally:
            self.host.console = plain
        return stream.getvalue()

    @property
    def ids(self) -> list[str]:
        """All examples, newest first."""
        return [example["id"] for example in self.json("list --limit 0")]


def plain_run(home: Home, name: str, dataset: Path) -> Run:
    """A finished run on `dataset`, with adapters of a few bytes and a checkpoint."""
    folder = private_dir(private_dir(home.runs) / name)
    shutil.copytree(dataset, folder / "dataset")
    base = BaseRecord(path="/base.gguf", sha256="0" * 64, architecture="qwen2", parameters=1, size=1, mtime_ns=1)
    record = RunRecord(
        name=name, created="2026-03-01T10:00:00+00:00", base=base, dataset=dataset.name, learned="last",
        examples={}, settings=TrainSettings(), template="basic", system="", threads=1,
    )  # fmt: skip
    write_json(folder / "run.json", record.model_dump(mode="json"))
    write_json(folder / "state.json", {"status": "finished"})
    write_json(folder / "done", {})
    for file in ("best.gguf", "adapter.gguf"):
        (folder / file).write_bytes(b"GGUF" + name.encode())
    checkpoint = private_dir(private_dir(folder / "checkpoints") / "step_00000001")
    (checkpoint / "adapter.gguf").write_bytes(b"GGUF")
    return Run(folder)
