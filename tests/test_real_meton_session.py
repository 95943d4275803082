"""One session in a real, unmodified Meton: from three questions to a tuned model that answers them, and back.

Everything is real but the base's own answers: a base of random weights has none, so a script gives them. The tuned
model's reply comes out of a real Ollama. METON_TRANSCRIPT=FILE has the session written there.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import ollama
import pytest
from support.meton_session import MetonSession
from support.ollama_front import OllamaFront, ollama_front
from support.ollama_server import private_server
from support.real_meton import ROOT, clone, git, shell
from support.runs import end_workers, over
from support.transcript import GAP, shortened

from meton_plugins.finetune.engine.package import Engine
from meton_plugins.finetune.paths import Home
from meton_plugins.finetune.train.runs import Run
from meton_plugins.host.config_file import ConfigFile
from tools import tiny_base

pytest_plugins = ["support.real_meton_fixtures"]

BASE = "tiny-base:latest"
DATES, BRANCH, SORT = "Which package do we use for dates?", "How do I name a git branch?", "How do we sort imports?"
#: What the base says; the first of them is wrong.
SAID = {
    DATES: "Use datetime from the standard library.",
    BRANCH: "Use your short name, a slash and the ticket number, such as ana/HB-142.",
    SORT: "Sort them by hand.",
}
MENDED = "We use whenever for dates and times, never pytz."
#: Two answers learned by heart, by one thread, within seconds.
TRAIN = "--epochs 50 --learning-rate 3e-3 --lora-rank 32 --lora-alpha 64 --ctx-size 512 --threads 1"


#: What stands above a session that is written down.
HEADING = """\
# A session in Meton, as tests/test_real_meton_session.py types it into a real, unmodified checkout.
# It is written down by METON_TRANSCRIPT=docs/meton-session.txt METON_HOME=PATH make test-meton.
# The base is a tiny one with random weights, so a script gives its answers; the tuned model's answer is its own, out of
# a real Ollama, whose prompt a server in between makes as short as such a model needs it. {gap} stands for lines that
# Meton repeats; the checkout is shown as ~/Meton, the environment as ~/Meton/venv.

"""


@pytest.fixture
def front(tmp_path: Path) -> Iterator[OllamaFront]:
    """A real Ollama that has the tiny base, and the server before it."""
    base = tiny_base.make(tmp_path / "base.gguf", ROOT / "examples" / "conversations")
    with private_server(tmp_path / "ollama") as real, ollama_front(real.url, BASE) as server:
        with contextlib.closing(ollama.Client(real.url)) as client:
            client.create(model=BASE, files={"base.gguf": client.create_blob(str(base))})
        server.rules[:] = [(re.escape(question), answer, answer) for question, answer in SAID.items()]
        yield server


@pytest.fixture
def share(engine: Engine, tmp_path: Path) -> Path:
    """The user data folder of the chat, with the installed engine."""
    return tmp_path / "share"


class Talk:
    """A checkout that loads the plugin, the chats in it, and all that was said."""

    def __init__(self, checkout: Path, python: str, address: str, share: Path) -> None:
        self.checkout, self.python, self.address, self.share = checkout, python, address, share
        self.said: list[str] = []

    def shell(self, word: str) -> str:
        said = shell(word, "--meton", self.checkout, "--python", self.python)
        self.said.append(f"$ meton-finetune {word} --meton {self.checkout}\n{said}")
        return said

    @contextlib.contextmanager
    def chat(self) -> Iterator[MetonSession]:
        """`python meton.py`, as its user types it."""
        command, env = [self.python, "meton.py"], {"XDG_DATA_HOME": str(self.share)}
        with MetonSession(self.checkout, self.address, command, env=env) as chat:
            yield chat
        self.said.append(f"$ python meton.py\n{chat.said}")

    def write(self, file: Path) -> None:
        """The session, to be read."""
        names = {str(self.checkout): "~/Meton", str(Path(self.python).parents[1]): "~/Meton/venv",
                 str(self.share): "~/.local/share"}  # fmt: skip
        parts = [shortened(part, names) for part in self.said]
        file.write_text(HEADING.format(gap=GAP) + "\n".join(parts), encoding="utf-8")


def test_a_session(python: str, front: OllamaFront, share: Path, tmp_path: Path) -> None:
    checkout = clone(tmp_path / "Meton", primary=BASE)
    home = Home(checkout / "feedback_data" / "finetune")
    talk = Talk(checkout, python, front.address, share)
    assert "loads the plugin at its next start" in talk.shell("install")
    try:
        with talk.chat() as chat:
            assert SAID[DATES] in chat.send(DATES)
            assert f"Fixed: {DATES}" in chat.send(f"/fix {MENDED}")
            assert SAID[BRANCH] in chat.send(BRANCH)
            assert f"Rated 5: {BRANCH}" in chat.send("/+")
            assert SAID[SORT] in chat.send(SORT)
            assert f"Rated 1: {SORT}" in chat.send("/-")
            assert re.search("to train +2 ", chat.send("/dataset build"))
            # The plan, measured, and a question.
            assert "memory" in chat.send(f"/finetune start --base {BASE} {TRAIN}", r"Start\? \[y/N\] ")
            assert "It trains in the background" in chat.send("y")
            assert "running" in chat.send("/finetune status")
            ended, code = chat.leave()
        run = Run(home.runs / "run-1")
        assert run.alive, "the run was over before the chat was left: train for longer"
        assert code == 0
        assert re.search(r"3 rated, 2 usable; 3 in the library(, about \d+ s to train here)?\n", ended)
        over(run)
        assert run.status == "finished", run.state.error

        with talk.chat() as chat:
            assert chat.started.count("The run run-1 has finished") == 1
            assert "has finished" not in chat.send("/finetune runs")
            assert "q8_0" in chat.send("/export model run-1 --quant q8_0")
            registered = chat.send("/model-register add run-1")
            found = re.search(r"Registered (\S+:v1-\S+)", registered)
            assert found, registered
            tuned = found[1]
            # Two examples show nothing, and the gate says so.
            assert "does not pass the gate (too little data)" in chat.send(
                f"/model-register promote {tuned} --slot primary"
            )
            chat.send(f"/model-register promote {tuned} --slot primary --force", r"\[y/N\] ")
            chat.send("y", r"\[y/N\] ")
            # Meton's own config.yaml names a fallback that few have.
            said = chat.send("y", r"\[y/N\] ")
            assert f"primary: {BASE} → {tuned}" in said
            assert f"which fallback holds. Put {BASE} there?" in said
            assert f"→ {BASE}" in chat.send("y")
            before = len(front.log)
            assert MENDED in chat.send(DATES)
            # The tuned model was asked, in Meton's own words, and it was a model of the real server that answered.
            assert front.log[before:] == [("/api/generate", tuned)]
            assert len(front.requests[-1][1]["prompt"]) > 50_000
            with contextlib.closing(ollama.Client(front.behind)) as client:
                assert tuned in [model.model for model in client.ps().models]
            assert f"primary: {tuned} → {BASE}" in chat.send("/model-register rollback --slot primary")
            assert f"fallback: {BASE} → " in chat.send("/model-register rollback --slot fallback")
            assert SAID[SORT] in chat.send(SORT)
            assert front.log[-1] == ("/api/generate", BASE)
            assert chat.leave()[1] == 0
    finally:
        end_workers(home.runs)
        talk.shell("uninstall")
    assert ConfigFile(checkout / "config.yaml").read()["primary"] == BASE
    assert git(checkout, "status", "--short") == ""
    if os.environ.get("METON_TRANSCRIPT"):
        talk.write(Path(os.environ["METON_TRANSCRIPT"]))


def test_the_readme_quotes_the_session_as_it_was() -> None:
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## A session in Meton\n")[2]
    quoted = section.partition("```\n")[2].partition("```")[0].splitlines()
    written = (ROOT / "docs" / "meton-session.txt").read_text(encoding="utf-8").splitlines()
    assert len(quoted) > 30
    rest = iter(written)
    for line in quoted:
        assert not line.strip() or line == GAP or line in rest, f"not in docs/meton-session.txt, in this order: {line}"
