"""Merge and quantize: memory and time on random bases of many sizes, the merge against a plain one in NumPy.

    python bench/merge.py [--sizes 0.1,0.4,0.5,1.2] [--kinds q4_k_m,q8_0,f16] [--rounds 3]

The plain merge reads the base with gguf, dequantizes, adds and halves one whole tensor after the other, and writes when
it has all of them: what one writes who does not think of memory. Each merge runs in a process of its own, ours and the
plain one in turn, over the same files, and ends when its file is safe on the disk. The kind is the base's; quantizing
starts from F16, and its rival is the library's own way. Writes bench/results/merge.json and bench/merge.md.
"""

from __future__ import annotations

import argparse
import ctypes as C
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Final

import record
from merge_bases import ROOT, SIZES, make_adapter, make_base

sys.path[:0] = [str(ROOT)]

from meton_plugins.finetune.engine.file_types import FILE_TYPES  # noqa: E402
from meton_plugins.finetune.engine.jobs import threads  # noqa: E402
from meton_plugins.finetune.engine.library import Library  # noqa: E402
from meton_plugins.finetune.engine.package import installed  # noqa: E402
from meton_plugins.finetune.engine.process import Child  # noqa: E402

FILES: Final = Path(os.environ.get("MERGE_BENCH_FILES", ROOT / ".cache" / "bench" / "merge"))
#: What the memory may be: so many times the largest tensor in F32, and so many MB.
TIMES: Final = 1.5
MORE_MB: Final = 300
#: A process is looked at so often, in seconds.
GLANCE: Final = 0.005
TARGETS: Final = ("q4_k_m", "q8_0")


def main() -> None:
    """Measure, keep, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default=",".join(SIZES))
    parser.add_argument("--kinds", default="q4_k_m,q8_0,f16")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["merge", "quantize"])
    parser.add_argument("--work", help=argparse.SUPPRESS)
    parser.add_argument("paths", nargs="*", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        if options.work in FILE_TYPES:
            by_the_library(options.work, *options.paths)
        else:
            print(json.dumps(work(options.work, *options.paths)))
        return
    FILES.mkdir(parents=True, exist_ok=True)
    for size in options.sizes.split(","):
        if options.only != "quantize":
            for kind in options.kinds.split(","):
                keep("merge", merge_case(size, kind, options.rounds))
        if options.only != "merge":
            for target in TARGETS:
                keep("quantize", quantize_case(size, target, options.rounds))


def merge_case(size: str, kind: str, rounds: int) -> dict[str, Any]:
    """Ours and the plain merge of one base, in turn."""
    base = make_base(FILES / f"{size}-{kind}.gguf", SIZES[size], kind)
    adapter, out = make_adapter(FILES / f"{size}.lora", SIZES[size]), FILES / "out.gguf"
    found: dict[str, list[dict[str, float]]] = {"ours": [], "numpy": []}
    for _ in range(rounds):
        for method, runs in found.items():
            command = [sys.executable, __file__, "--work", method, str(base), str(adapter), str(out)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
                memory = watch(process)
                assert process.stdout is not None
                runs.append({**json.loads(process.stdout.read()), **memory})
            out.unlink()
    ours, numpy = (middle(runs) for runs in found.values())
    return {
        **facts(size), "base": kind, "rounds": rounds, "ours": ours, "numpy": numpy,
        "times_faster": round(numpy["seconds"] / ours["seconds"], 2),
    }  # fmt: skip


def quantize_case(size: str, target: str, rounds: int) -> dict[str, Any]:
    """Ours, in its child process, and the library's own, in turn, from one F16 base."""
    base, out = make_base(FILES / f"{size}-f16.gguf", SIZES[size], "f16"), FILES / "out.gguf"
    found: dict[str, list[dict[str, float]]] = {"ours": [], "library": []}
    for _ in range(rounds):
        for method, runs in found.items():
            began = time.perf_counter()
            if method == "ours":
                job = {"kind": "quantize", "source": str(base), "target": str(out), "type": target}
                with Child({**job, "threads": threads()}) as child:
                    memory = watch(child.process)
                    list(child)  # raises where it failed
            else:
                command = [sys.executable, __file__, "--work", target, str(base), str(out)]
                with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
                    memory = watch(process)
                if process.returncode:
                    raise SystemExit(f"llama_model_quantize to {target} failed")
            runs.append({"seconds": time.perf_counter() - began, **memory})
            out.unlink()
    ours, library = (middle(runs) for runs in found.values())
    return {**facts(size), "to": target, "rounds": rounds, "ours": ours, "library": library}


def by_the_library(kind: str, source: Path, target: Path) -> None:
    """In a process of its own: `llama_model_quantize`."""
    library = Library(installed())
    params = library.llama_model_quantize_default_params()
    params.ftype, params.nthread = FILE_TYPES[kind], threads()
    if library.llama_model_quantize(str(source).encode(), str(target).encode(), C.byref(params)):
        raise SystemExit(library.complaint)


def facts(size: str) -> dict[str, Any]:
    shape = SIZES[size]
    largest = shape.largest / 1e6
    return {
        "size": size, "parameters_m": round(shape.parameters / 1e6), "largest_f32_mb": round(largest),
        "bound_mb": round(TIMES * largest + MORE_MB),
    }  # fmt: skip


def watch(process: subprocess.Popen[Any]) -> dict[str, float]:
    """Wait until `process` ends; the most MB that it held, and of these the most that are no pages of a file."""
    peak, anonymous = 0.0, 0.0
    while process.poll() is None:
        try:
            text = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
        except OSError:
            break
        told = {line.split(":")[0]: line.split()[1] for line in text.splitlines() if line.endswith(" kB")}
        # Nothing of both remains of a process that has just ended.
        peak = max(peak, int(told.get("VmHWM", 0)) * 1024 / 1e6)
        anonymous = max(anonymous, int(told.get("RssAnon", 0)) * 1024 / 1e6)
        time.sleep(GLANCE)
    return {"peak_rss_mb": peak, "peak_anonymous_mb": anonymous}


def middle(runs: list[dict[str, float]]) -> dict[str, float]:
    """The median of the times, the largest of the memories."""
    return {
        name: round(statistics.median(run[name] for run in runs), 2)
        if name.endswith("seconds")
        else round(max(run[name] for run in runs))
        for name in runs[0]
    }


def work(method: str, base: Path, adapter: Path, out: Path) -> dict[str, float]:
    """In a process of its own: one merge; seconds of the clock and of the CPU."""
    from merge_plain import merge as plain

    from meton_plugins.finetune.gguf.merge import merge as ours

    began = time.perf_counter()
    {"ours": ours, "numpy": plain}[method](base, adapter, out)
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {"seconds": time.perf_counter() - began, "cpu_seconds": used.ru_utime + used.ru_stime}


def keep(part: str, row: dict[str, Any]) -> None:
    """Put `row` among the results; what was measured before of other cases stays."""
    print(part, row, flush=True)

    def key(one: dict[str, Any]) -> tuple[Any, ...]:
        return one["parameters_m"], str(one.get("base") or one["to"])

    rows = {key(one): one for one in record.get("merge").get(part, [])} | {key(row): row}
    record.put("merge", **{part: [rows[one] for one in sorted(rows)]})
    write_table()


def write_table() -> None:
    """bench/merge.md."""
    found = record.get("merge")
    machine = found["machine"]
    lines = [
        "# Merge and quantize",
        "",
        f"`make bench-merge`, on {machine['cores']} cores of {machine['cpu']} ({' '.join(machine['flags'])}), "
        f"{machine['memory_gb']} GB, Python {machine['python']}. Random qwen3-shaped bases with a vocabulary of 152k, "
        "LoRA of rank 16 on all projections. The cores are shared with other work: read the ratios and the CPU "
        "seconds, not the seconds.",
        "",
        f"Memory is the process's peak RSS (VmHWM), what it maps of files included. It may be {TIMES} × the largest "
        f"tensor in F32 + {MORE_MB} MB. 380 M has the same largest tensor as 103 M and twelve times its layers.",
        "",
        "## Merge, against a plain one in NumPy without streaming (bench/merge_plain.py)",
        "",
        "| base | largest tensor, MB | may be, MB | ours, MB | NumPy, MB | ours, s (CPU) | NumPy, s (CPU) | faster "
        "| rounds |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in found.get("merge", []):
        ours, numpy = row["ours"], row["numpy"]
        lines.append(
            f"| {row['parameters_m']} M {row['base'].upper()} | {row['largest_f32_mb']} | {row['bound_mb']} "
            f"| **{ours['peak_rss_mb']}** | {numpy['peak_rss_mb']} | {ours['seconds']} ({ours['cpu_seconds']}) "
            f"| {numpy['seconds']} ({numpy['cpu_seconds']}) | **{row['times_faster']} ×** | {row['rounds']} |"
        )
    lines += [
        "",
        "## Quantize, from F16, against `llama_model_quantize` alone",
        "",
        "| base to | may be, MB | ours, MB | of these no file's pages | library, MB | of these no file's pages "
        "| ours, s | library, s | rounds |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in found.get("quantize", []):
        ours, library = row["ours"], row["library"]
        lines.append(
            f"| {row['parameters_m']} M {row['to'].upper()} | {row['bound_mb']} | **{ours['peak_rss_mb']}** "
            f"| {ours['peak_anonymous_mb']} | {library['peak_rss_mb']} | {library['peak_anonymous_mb']} "
            f"| {ours['seconds']} | {library['seconds']} | {row['rounds']} |"
        )
    (ROOT / "bench" / "merge.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
