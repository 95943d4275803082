"""Whether a run goes on by the same arithmetic with which it began."""

from __future__ import annotations

from ..engine.package import NUMPY, Engine
from .record import RunRecord

__all__ = ["lost"]


def lost(record: RunRecord, engine: Engine, cores: int, device: str | None = None) -> str | None:
    """Why a run that goes on with `engine`, `cores` cores and the GPU `device` cannot end as an undisturbed one, bit by
    bit.

    None where it can. Our own pass goes on with as many threads as before, also on fewer cores: what each of them adds
    up stays the same. The library's threads would wait for each other without end.
    """
    reasons = []
    for what, now in (("engine", engine.version), ("backend", engine.backend)):
        began = record.versions.get(what, now)
        if began != now:
            reasons.append(f"it began with the {what} {began} and goes on with {now}")
    products = record.versions.get("products", NUMPY)  # a run that does not say it is older than oneDNN here
    if record.settings.accelerate and products != engine.products_name:
        reasons.append(f"it began with products by {products} and goes on with {engine.products_name}")
    if cores < record.threads and not (record.compute and record.compute.own):
        reasons.append(f"it began on {record.threads} threads and goes on with {cores}, as there are no more cores")
    if device is not None and record.versions.get("gpu", device) != device:
        reasons.append(f"it began on the GPU {record.versions['gpu']} and goes on with {device}")
    if not reasons:
        return None
    return f"{' and '.join(reasons)}: bit-identity with an undisturbed run is lost"
