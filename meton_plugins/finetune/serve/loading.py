"""The guide's troubles with a server: a model that it does not load, runs slowly, or asks in another form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ..gguf.inspect import GgufInfo
from ..train.finding import Finding
from ..units import size as in_units
from .answers import Show
from .parameters import METON_SETTINGS

__all__ = ["RULES", "Serving"]

#: Tokens a second below which nobody waits for an answer, and below which it is no pleasure.
TOO_SLOW, SLOW = 2.0, 5.0
#: What Meton asks for where its config.yaml does not say otherwise.
METON_CONTEXT: Final = 32768
#: Part of the machine's memory that a model may fill before everything is swapped.
FITS: Final = 0.8
#: Bytes a weight of the type to go to.
Q4: Final = 0.6
#: A template that belongs to one family of models, and is often copied to others.
LLAMA_2: Final = "[INST]"
#: What part of a server's refusal means which remedy.
REMEDIES: Final = (
    ("architecture", "Update Ollama: its llama.cpp must know the architecture."),
    ("memory", "Take a smaller file: /export model {run} --quant q4_k_m, then register it; or close other programs."),
    ("gguf", "Export it again, then register it: /export model {run}, /model-register add {run}."),
    ("cut short", "Export it again, then register it: /export model {run}, /model-register add {run}."),
    ("file's type", "Another type: /export model {run} --quant q4_k_m, then register it; or update Ollama."),
    ("gone from its disk", "Register it again: /model-register add {run}."),
)  # fmt: skip


@dataclass(frozen=True)
class Serving:
    """What is known of a tuned model as a file and on a server; None where nobody looked or could.

    `trouble`: why the file cannot be used. `refused`: what the server said when it was to load it. `speed` is tokens
    a second, through the server or else `engine`. `ended`, of `asked` answers through the server, came to an end by
    themselves; `ended_here` in the engine. `memory` is the machine's, in bytes, where the server is on it.
    """

    run: str
    tag: str | None = None
    info: GgufInfo | None = None
    base_info: GgufInfo | None = None
    trouble: str | None = None
    listed: bool | None = None
    refused: str | None = None
    version: str = ""
    show: Show | None = None
    base_show: Show | None = None
    system: str | None = None
    speed: float | None = None
    through: str = "the server"
    memory: int | None = None
    gpu: bool = False
    spoke: bool = False
    asked: int = 0
    ended: int = 0
    ended_here: int = 0
    #: What was found of Meton's form: answers that kept it, of the base, of so many; and where that is from.
    form: tuple[int, int, int, str] | None = None


def no_file(serving: Serving) -> Finding | None:
    """A file that is gone, not a GGUF, cut short, or not to be read."""
    if serving.trouble is None:
        return None
    low = serving.trouble.lower()
    advice = (
        "Give yourself the right to read it: chmod u+r, or chown."
        if "permission" in low or "cannot be read" in low
        else f"Export it again, then register it: /export model {serving.run}, /model-register add {serving.run}."
    )
    return Finding("file", "bad", "Its file cannot be loaded", serving.trouble, advice, "its file cannot be loaded")


def not_listed(serving: Serving) -> Finding | None:
    """A registered model that the server no longer has."""
    if serving.listed is not False or serving.tag is None:
        return None
    return Finding(
        "gone", "bad", "The server does not have it", f"Ollama {serving.version} does not list {serving.tag}.",
        f"/model-register add {serving.run} makes it again.", "the server does not have it",
    )  # fmt: skip


def refused(serving: Serving) -> Finding | None:
    """A model that the server has and does not run."""
    if serving.refused is None:
        return None
    low = serving.refused.lower()
    advice = next(
        (text for part, text in REMEDIES if part in low), "Look at the server's log, and see /finetune doctor."
    )
    facts = []
    if serving.info:
        facts.append(f"architecture {serving.info.architecture}, {in_units(serving.info.size)}")
    if serving.memory:
        facts.append(f"memory {in_units(serving.memory)}")
    more = f" ({', '.join(facts)}; Ollama {serving.version})" if facts else f" (Ollama {serving.version})"
    return Finding(
        "load", "bad", "The server does not load it", serving.refused + more,
        advice.format(run=serving.run), "the server does not load it",
    )  # fmt: skip


def too_large(serving: Serving) -> Finding | None:
    """A file that this machine's memory does not hold."""
    if serving.info is None or not serving.memory or serving.info.size <= FITS * serving.memory:
        return None
    return Finding(
        "memory", "bad", "It does not fit into memory",
        f"The file has {in_units(serving.info.size)}, the machine {in_units(serving.memory)} of memory.",
        f"{_smaller(serving)} Or a smaller base.", "it does not fit into memory",
    )  # fmt: skip


def slow(serving: Serving) -> Finding | None:
    """Few tokens a second, with what makes it so."""
    if serving.speed is None or serving.speed >= SLOW:
        return None
    evidence = [f"It says {serving.speed:.1f} tokens a second through {serving.through}."]
    advice = []
    info = serving.info
    if info is not None:
        whole = _whole_types(info)
        evidence.append(f"Its file has {in_units(info.size)}{f', mostly {whole}' if whole else ''}.")
        if whole:
            advice.append(_smaller(serving))
    context = _parameter(serving.show, "num_ctx")
    wanted = int(context[0]) if context and context[0].isdigit() else METON_CONTEXT
    evidence.append(
        f"A context of {wanted:,} tokens is kept in memory"
        + ("." if context else " where models.settings.num_ctx does not say less.")
    )
    advice.append(
        f"{METON_SETTINGS['num_ctx']}: {max(4096, wanted // 4)} in Meton's config.yaml: Meton sends it with each call."
    )
    if not serving.gpu:
        advice.append("No GPU is here, so the CPU does it: a base with fewer weights is faster in proportion.")
    return Finding(
        "slow", "bad" if serving.speed < TOO_SLOW else "note", "It is slow", " ".join(evidence), " ".join(advice),
        "it is slow",
    )  # fmt: skip


def capabilities(serving: Serving) -> Finding | None:
    """Something that the base can do and it cannot: tools, most often."""
    if serving.show is None or serving.base_show is None:
        return None
    lost = serving.base_show.capabilities - serving.show.capabilities - {"vision", "audio"}
    if not lost:
        return None
    return Finding(
        "capabilities", "bad", "It lost what its base can do on the server",
        f"{serving.base_show.name} can do {', '.join(sorted(lost))}, {serving.show.name} cannot: its template or "
        "renderer did not come through.",
        f"Register it with a template without a TEMPLATE of its own: /model-register add {serving.run} --template "
        "basic.",
        "it lost what its base can do",
    )  # fmt: skip


def template(serving: Serving) -> Finding | None:
    """Another TEMPLATE or SYSTEM than it was trained with, or none at all."""
    show, base, info = serving.show, serving.base_show, serving.info
    if show is None:
        return None
    own = _own_template(show)
    said = ""
    chat = (info.chat_template if info else None) or ""
    if base is not None and own and own != _own_template(base):
        said = f"Its TEMPLATE ({len(own)} characters) is not that of {base.name} ({len(_own_template(base))})."
    elif LLAMA_2 in own and chat and LLAMA_2 not in chat:
        said = f"Its TEMPLATE puts {LLAMA_2} round each question, and its own chat template knows no such mark."
    elif info is not None and not own and not chat and not _instruction(show, "RENDERER"):
        said = "Neither the Modelfile nor the GGUF holds a chat template, so questions come without any marks."
    elif serving.system is not None and serving.system.strip() != show.system.strip():
        said = (
            f"Its SYSTEM ({len(show.system)} characters) is not the one that was in every row of its training "
            f"({len(serving.system)} characters)."
        )
    if not said:
        return None
    return Finding(
        "template", "bad", "The server asks it in another form than it learned", said,
        f"/model-register add {serving.run} takes template, renderer and SYSTEM from the base and the run; or mend "
        "TEMPLATE in your Modelfile template, see /model-register templates.",
        "the server asks it in another form than it learned",
    )  # fmt: skip


def stops(serving: Serving) -> Finding | None:
    """Stop texts of the base that are missing, or answers that only end in the engine."""
    base, show = serving.base_show, serving.show
    missing = [stop for stop in _parameter(base, "stop") if stop not in _parameter(show, "stop")] if show else []
    over = serving.asked >= 2 and 2 * serving.ended < serving.asked and 2 * serving.ended_here > serving.asked
    if not missing and not over:
        return None
    said = []
    if missing and base is not None:
        said.append(f"{', '.join(missing)} of {base.name} is not among its stops.")
    if over:
        said.append(
            f"{serving.ended} of {serving.asked} answers through the server ended by themselves, in the training "
            f"engine {serving.ended_here}."
        )
    wanted = missing or ([serving.info.eos] if serving.info and serving.info.eos else [])
    line = f'PARAMETER stop "{wanted[0]}"' if wanted else "PARAMETER stop with its end mark"
    return Finding(
        "stops", "bad", "Its answers run on for want of stops", " ".join(said),
        f"{line} in the Modelfile template, then /model-register add {serving.run} again: stops are not among what "
        "Meton overrides.",
        "its answers run on for want of stops",
    )  # fmt: skip


def form(serving: Serving) -> Finding | None:
    """Answers that Meton cannot read."""
    if serving.form is None:
        return None
    kept, base, count, source = serving.form
    if not count or base <= kept + 0.02 * count:
        return None
    return Finding(
        "form", "bad", "Meton cannot read its answers",
        f"{kept} of {count} answers keep Meton's form, {base} should ({source}).",
        "Train on Meton's own form: /dataset build --form meton, then train again; /model-register check "
        f"{serving.run} measures it.",
        "Meton cannot read its answers",
    )  # fmt: skip


RULES: Final[tuple[Callable[[Serving], Finding | None], ...]] = (
    no_file, not_listed, refused, too_large, capabilities, template, stops, form, slow,
)  # fmt: skip


def _parameter(show: Show | None, name: str) -> list[str]:
    """The values of a PARAMETER as the server lists them: a name, spaces, a value in quotes or bare."""
    lines = [line.split(None, 1) for line in show.parameters.splitlines()] if show else []
    return [_bare(parts[1]) for parts in lines if len(parts) == 2 and parts[0] == name]


def _bare(text: str) -> str:
    text = text.strip()
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text


def _instruction(show: Show, word: str) -> bool:
    return any(line.startswith(f"{word} ") for line in show.modelfile.splitlines())


def _own_template(show: Show) -> str:
    """The Go template of a model; empty where the server takes the GGUF's own, which it says in other words."""
    text = show.template.strip()
    go = "{%" not in text and ("{{-" in text or "{{ " in text)
    return text if go and text != "{{ .Prompt }}" else ""


def _whole_types(info: GgufInfo) -> str:
    """F32 or F16 (BF16 is as large); empty for a quantized file."""
    bits = 8 * info.size / max(1, info.parameters)
    return "F32" if bits > 24 else "F16" if bits > 12 else ""


def _smaller(serving: Serving) -> str:
    info = serving.info
    size = f", about {in_units(round(Q4 * info.parameters))} instead of {in_units(info.size)}" if info else ""
    return f"A quantized file: /export model {serving.run} --quant q4_k_m{size}, then register it."
