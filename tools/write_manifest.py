"""Write the lists at the end of plugin.toml anew from what registration makes: commands, tools, settings."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

from meton_plugins.finetune.plugin import register
from meton_plugins.finetune.settings import Settings
from meton_plugins.host.console import ConsoleHost
from meton_plugins.host.manifest import flat_settings

PLUGIN = Path(__file__).parent.parent / "plugin.toml"
MARK = "# Below: written by `make manifest`.\n"


def entry(kind: str, values: dict[str, Any]) -> str:
    """One `[[kind]]` table; what is None is left out."""
    lines = [f"[[{kind}]]"]
    for name, value in values.items():
        if value is None:
            continue
        if isinstance(value, dict):
            value_text = "{" + ", ".join(f"{json.dumps(k)} = {json.dumps(v)}" for k, v in value.items()) + "}"
        else:
            value_text = json.dumps(value, ensure_ascii=False)
        lines.append(f"{name} = {value_text}")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Rewrite plugin.toml."""
    with tempfile.TemporaryDirectory() as folder:
        host = ConsoleHost(Path(folder))
        register(host)
    parts = [
        entry("commands", {"name": c.name, "summary": c.summary, "verbs": list(c.verbs), "aliases": dict(c.aliases)})
        for c in host.commands.values()
    ]
    parts += [entry("tools", {"name": t.name, "effect": t.effect.value, "asks": t.asks}) for t in host.tools.values()]
    parts += [entry("settings", s.model_dump(mode="json")) for s in flat_settings(Settings)]
    head, mark, _ = PLUGIN.read_text(encoding="utf-8").partition(MARK)
    PLUGIN.write_text(head + mark + "\n" + "\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
