"""A session as a reader wants to see it: what Meton repeats is left out, and each gap is marked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

#: A line that stands for some that were left out.
GAP: Final = "[…]"
#: From Meton's first line to its invitation; and what it prints of a question's course, above the answer.
_REPEATED: Final = (
    re.compile(r"^\s*🔧 Initializing Meton.*?^✓ Initialization complete!\n", re.DOTALL | re.MULTILINE),
    re.compile(r"^╔═.*?^Type /help for commands or just start chatting!\n", re.DOTALL | re.MULTILINE),
    re.compile(r"^=+\n🤖 Meton Agent Starting.*?^✅ Agent Finished.*?^=+\n", re.DOTALL | re.MULTILINE),
    re.compile(r"^🔄 Shutting down.*?^👋 Goodbye!\n", re.DOTALL | re.MULTILINE),
)


def shortened(text: str, names: Mapping[str, str]) -> str:
    """`text` without Meton's repetitions; each of `names` (a path) replaced by the name to show."""
    for pattern in _REPEATED:
        text = pattern.sub(f"{GAP}\n", text)
    for path, name in names.items():
        text = text.replace(path, name)
    text = "\n".join(line.rstrip() for line in text.splitlines())
    text = re.sub(rf"({re.escape(GAP)}\n\s*)+", f"{GAP}\n\n", text)
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n") + "\n"
