"""What the base's licence asks of whoever passes a tuned model on: a reminder by its name, no legal advice."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

from ..gguf.inspect import open_gguf

__all__ = ["reminder", "said_in"]


class _Licence(NamedTuple):
    """How a licence is recognised, in its text or as GGUF's `general.license` names it, and its duty, if any."""

    name: str
    mark: str
    keys: tuple[str, ...]
    duty: str = ""


#: Marks are looked for in small letters and single blanks; the more special one stands first.
LICENCES: Final = (
    # Section 1.b.i (displaying and naming) and 1.b.iii (the Notice file); so in 3.1, 3.2, 3.3 and 4.
    _Licence(
        "Llama Community License", r"llama (?:3\.\d+|4) community license",
        ("llama3.1", "llama3.2", "llama3.3", "llama4"),
        'it must show "Built with Llama", and its name must begin with "Llama" (section 1.b.i)',
    ),
    # Section 1.b.i.
    _Licence(
        "Meta Llama 3 Community License", r"llama 3 community license", ("llama3",),
        'it must show "Built with Meta Llama 3", and its name must begin with "Llama 3" (section 1.b.i)',
    ),
    # Section 1.b.i (a copy of the agreement) and 1.b.ii (the attribution, in a Notice file).
    _Licence(
        "Llama 2 Community License", r"llama 2 community license", ("llama2",),
        "a copy of the licence and its Notice must go with it (section 1.b)",
    ),
    # Section 2 (research and evaluation alone) and 4.b (displaying).
    _Licence(
        "Qwen Research License", r"qwen research license agreement", ("qwen-research",),
        'its documentation must show "Built with Qwen" or "Improved using Qwen" (section 4.b), and nobody may use it '
        "commercially",
    ),
    # Section 3 alone: a copy, notices of changes, a Notice file. This one, of 2023, wants no words displayed.
    _Licence(
        "Tongyi Qianwen License", r"tongyi qianwen (?:research )?license agreement",
        ("tongyi-qianwen", "tongyi-qianwen-research"),
        "a copy of the licence and its Notice must go with it (section 3)",
    ),
    # Section 4.b.
    _Licence(
        "Qwen License", r"qwen license agreement", ("qwen",),
        'its documentation must show "Built with Qwen" or "Improved using Qwen" (section 4.b)',
    ),
    # Section 3.1: the restrictions in section 3.2, a copy, a Notice file.
    _Licence(
        "Gemma Terms of Use", r"gemma terms of use", ("gemma",),
        "a copy of the terms, their Notice and their use restrictions must go with it (section 3.1)",
    ),
    # Sections 4 and 5: a copy, and Attachment A in any agreement of one's own.
    _Licence(
        "DeepSeek License", r"deepseek license agreement", ("deepseek", "deepseek-license"),
        "a copy of the licence and the use restrictions of its Attachment A must go with it (sections 4 and 5)",
    ),
    _Licence("Apache License 2.0", r"apache license,? version 2\.0", ("apache-2.0",)),
    _Licence("MIT License", r"permission is hereby granted, free of charge, to any person obtaining", ("mit",)),
)  # fmt: skip


def reminder(text: str, key: str = "") -> str | None:
    """A sentence about the duties of the licence `text`, or without one of what GGUF calls `key`; None for no duties.

    Of a text that is not known here it says just that.
    """
    plain = " ".join(text.lower().replace("\u2019", "'").split())
    found = next((each for each in LICENCES if re.search(each.mark, plain)), None)
    if found is None and not plain:
        found = next((each for each in LICENCES if key.lower() in each.keys), None)
        if found is None:
            return None
    if found is None:
        return "The base's licence is copied unchanged and is none that is known here: read it before you pass this on."
    if not found.duty:
        return None
    return f"The base is under the {found.name}: if you pass this model on, {found.duty}. A reminder, not advice."


def said_in(gguf: Path) -> str:
    """What a GGUF calls its licence: `general.license`, or its name where that is `other`; empty where it is silent."""
    header = open_gguf(gguf)
    names = [str(header.value(f"general.license{part}", "")) for part in ("", ".name")]
    return next((name for name in names if name and name.lower() != "other"), "")
