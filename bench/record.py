"""Where the benches keep what they measured: one JSON file a subject, with the machine that it was measured on."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any, Final

RESULTS: Final = Path(__file__).resolve().parent / "results"
#: What of a CPU's flags decides how fast it multiplies.
FLAGS: Final = ("avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16")


def get(subject: str, folder: Path = RESULTS) -> dict[str, Any]:
    """What `<subject>.json` of `folder` holds."""
    path = folder / f"{subject}.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}


def put(subject: str, folder: Path = RESULTS, **values: Any) -> Path:
    """Lay `values` over what `<subject>.json` of `folder` holds; the file."""
    path = folder / f"{subject}.json"
    folder.mkdir(parents=True, exist_ok=True)
    # First in the file, and always this machine's.
    whole = {"machine": None, **get(subject, folder), **values} | {"machine": machine()}
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
    return path


def machine() -> dict[str, Any]:
    """CPU, cores, memory in GB, system and Python."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").is_file() else ""
    lines = dict(line.split(":", 1) for line in text.split("\n\n")[0].splitlines() if ":" in line)
    facts = {name.strip(): value.strip() for name, value in lines.items()}
    flags = facts.get("flags", "").split()
    return {
        "cpu": facts.get("model name", platform.processor()),
        "cores": os.cpu_count(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "system": platform.platform(terse=True),
        "python": platform.python_version(),
    }
