"""The model families of the guide, and what of them is proven."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from ..gguf.inspect import ARCHITECTURES

__all__ = ["FAMILIES", "Family", "family_of", "proof_of"]


class Family(NamedTuple):
    """A family of the guide's list. `words`: what the name of a model of it matches, in lower case.

    `proven`: a model of it was trained by this plugin, and the result looked at.
    """

    name: str
    architecture: str
    words: re.Pattern[str]
    proven: bool = False


#: Weights of the unproven ones could not be had where the plugin was tested.
FAMILIES: Final = (
    Family("CodeLlama", "llama", re.compile(r"code[ _.-]?llama")),
    Family("DeepSeek Coder", "llama", re.compile(r"deep[ _.-]?seek[ _.-]?coder(?![ _.:-]*v?2)")),
    Family("Qwen2.5-Coder", "qwen2", re.compile(r"qwen[ _.-]?2[._]5[ _.-]?coder"), proven=True),
    Family("Llama 3.1", "llama", re.compile(r"llama[ _.-]?3[._]1")),
)


def family_of(architecture: str, *names: str) -> Family | None:
    """The family of the guide's list that a base belongs to, by its architecture and any of its names."""
    for family in FAMILIES:
        if family.architecture == architecture and any(family.words.search(name.lower()) for name in names):
            return family
    return None


def proof_of(architecture: str, family: Family | None) -> str:
    """In words, what is proven of training on such a base."""
    if architecture not in ARCHITECTURES:
        return f"architecture {architecture} unproven"
    small = f"architecture {architecture} proven on small random models"
    if family is None:
        return f"{small}; not a family of the guide's list, unproven"
    return f"{small}; {family.name} {'proven' if family.proven else 'unproven: no model of it was trained here'}"
