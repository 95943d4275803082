"""Loss and gradient of a transformer block by block: our own forward and backward pass, on the base as it is stored."""

__all__ = ["PASS"]

#: Counts up when the pass becomes faster or needs other memory: what was measured before is then measured anew.
PASS = 4
