"""Who answers for a name: a model of the Ollama server, or a run, an export or a GGUF in the training engine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..curate.manifest import read_manifest
from ..errors import FinetuneError, NotFound, ServerError
from ..paths import Home
from .contender import Contender, base_of, tuned_of
from .form_check import Speaker
from .names import full_name
from .register import find_registered
from .subject import find_subject

if TYPE_CHECKING:
    from .ollama import Server

__all__ = ["BASE", "Voice", "find_voice"]

#: Stands for the base of the other model.
BASE = "base"

Progress = Callable[[int, int], None]


class Voice(NamedTuple):
    """A model that can be asked. `through`: what runs it. `in_form`: it was trained in Meton's form."""

    name: str
    through: str
    in_form: bool
    speaker: Callable[[int, Progress], Speaker]


def find_voice(home: Home, server: Server | None, name: str, other: str) -> Voice:
    """The model `name`: what the server lists and can run, else the run or registered model of that name in the engine.

    `base` is the base of the `other` model. NotFound where nobody knows it.
    """
    if name == BASE:
        return _engine(base_of(find_subject(home, other)), in_form=False)
    away = ""
    if server is not None and ":" in name:
        try:
            if server.exists(full_name(name)):
                note = server.try_out(full_name(name))
                if note is None:
                    return _served(server, full_name(name), in_form=_in_form(home, name))
                away = f" ({note})"
        except ServerError as error:
            away = f" ({error.sentence})"
    try:
        subject = find_subject(home, name)
    except FinetuneError as error:
        raise NotFound(f"No model {name} can be asked here{away}: {error.sentence}") from error
    return _engine(tuned_of(subject, name), in_form=_in_form(home, name))


def _served(server: Server, name: str, *, in_form: bool) -> Voice:
    def speaker(limit: int, progress: Progress) -> Speaker:
        def speak(texts: Sequence[str]) -> list[str]:
            said = []
            for done, text in enumerate(texts):
                progress(done, len(texts))
                # Greedy, as the engine answers: what is compared is the models, not their luck.
                said.append(server.generate(name, text, options={"num_predict": limit, "temperature": 0}).text)
            progress(len(texts), len(texts))
            return said

        return speak

    return Voice(name, "Ollama", in_form, speaker)


def _engine(one: Contender, *, in_form: bool) -> Voice:
    def speaker(limit: int, progress: Progress) -> Speaker:
        return one.paced([{"role": "user", "content": "Hello"}]).speaker(limit, progress=progress)

    return Voice(one.name, "the training engine", in_form, speaker)


def _in_form(home: Home, name: str) -> bool:
    """Whether the model was trained on a dataset in Meton's form; False for one that is none of ours."""
    made = find_registered(home, name)
    run = home.runs / str(made.notes.get("run") if made else name)
    try:
        return read_manifest(run / "dataset").settings.form == "meton"
    except FinetuneError:
        return False
