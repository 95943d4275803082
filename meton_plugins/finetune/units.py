"""Times, sizes and other values as people read them."""

from __future__ import annotations

__all__ = ["duration", "many", "memory", "short", "size"]


def duration(seconds: float | None) -> str:
    """`42 s`, `3 min`, `2 h 05 min`; empty for None."""
    if seconds is None:
        return ""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def many(number: int, noun: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def memory(megabytes: float | None) -> str:
    """`812 MB`, `5.4 GB`; empty for None."""
    if megabytes is None:
        return ""
    return f"{megabytes:.0f} MB" if megabytes < 1000 else f"{megabytes / 1024:.1f} GB"


def short(value: object) -> str:
    """A value of any kind: `yes`, `0.1235`, `left as it is`; four digits of a number with a fraction."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def size(number: int) -> str:
    """Bytes as `12 KB`, `3.4 MB`, `1.2 GB`."""
    if number >= 2**30:
        return f"{number / 2**30:.1f} GB"
    return f"{number / 2**20:.1f} MB" if number >= 2**20 else f"{max(1, number >> 10)} KB"
