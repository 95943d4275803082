"""What the benches measured, as a table: bench/data.md from bench/results/data.json.

python bench/table.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent

#: What each method of finding near-duplicates is.
METHODS = {
    "ours": "ours (byte-run sketches, RapidFuzz)",
    "datasketch": "datasketch MinHashLSH (128, 0.6) + RapidFuzz",
    "rensa": "rensa (16 bands) + RapidFuzz",
    "cdist": "rapidfuzz.process.cdist (brute force)",
}


def main() -> None:
    """Write the table."""
    found = json.loads((HERE / "results" / "data.json").read_text(encoding="utf-8"))
    machine = found["machine"]
    flags = " ".join(machine["flags"]) or "no vector flags"
    lines = [
        "# The library and the curation, measured",
        "",
        f"`make bench-data`, on {machine['cores']} cores of {machine['cpu']} ({flags}), {machine['memory_gb']} GB, "
        f"Python {machine['python']}. The cores are shared: read the ratios, not the seconds.",
        "",
        *near(found.get("near_duplicates", [])),
        "## All else",
        "",
        "| what | measured |",
        "|---|---|",
        *others(found),
    ]
    (HERE / "data.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def near(rows: list[dict[str, Any]]) -> list[str]:
    """The near-duplicates of each size, with how many times longer than ours each method took."""
    if not rows:
        return []
    lines = ["## Near-duplicates", "", "| texts | method | seconds | against ours | peak MB | recall |",
             "|---:|---|---:|---:|---:|---:|"]  # fmt: skip
    for row in sorted(rows, key=lambda row: (row["n"], list(METHODS).index(row["method"]))):
        own = next((other["seconds"] for other in rows if (other["n"], other["method"]) == (row["n"], "ours")), None)
        ratio = f"{row['seconds'] / own:.1f} ×" if own else ""
        recall = f"{row['recall']:.3f}" if row["recall"] is not None else ""
        lines.append(
            f"| {row['n']:,} | {METHODS[row['method']]} | {row['seconds']:.1f} | {ratio} | {row['peak_rss_mb']:.0f} "
            f"| {recall} |"
        )
    return [*lines, ""]


def others(found: dict[str, Any]) -> list[str]:
    """A line for each of the other benches."""
    lines = []
    if harvest := found.get("harvest"):
        lines.append(f"| harvest of {harvest['files']:,} conversation files | {harvest['seconds']:.1f} s |")
    if build := found.get("build"):
        size = f"{build['examples']:,} examples"
        lines.append(f"| build of {size} | {build['seconds']:.1f} s, {build['peak_rss_mb']:.0f} MB at most |")
    if rating := found.get("rating_ms"):
        lines.append(
            f"| a rating, in a library of 100,000 | {rating['p50']:.1f} ms (p50), {rating['p99']:.1f} ms (p99) |"
        )
    if secrets := found.get("secrets"):
        lines.append(f"| secrets: recall on the forms of gitleaks' rules | {secrets['recall']:.3f} |")
        clean = f"{secrets['false_per_1000']:.2f}"
        if "false_per_1000_fresh" in secrets:
            clean += f"; {secrets['false_per_1000_fresh']:.2f} in packages never looked at"
        lines.append(f"| secrets: false hits in 1,000 pieces of clean code | {clean} |")
        lines.append(f"| secrets: speed | {secrets['mb_per_s']:.1f} MB/s |")
    return lines


if __name__ == "__main__":
    main()
