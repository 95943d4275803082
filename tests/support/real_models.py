"""The real models as fixtures: `pytest_plugins = ["support.real_models"]`.

Where one cannot be had its tests are skipped with the reason; with REQUIRE_REAL_MODEL=1 they fail.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tools.real_models import Unavailable, real_model


def model_or_skip(name: str) -> Path:
    """The model's file; else the test that asks for it is skipped, or fails."""
    try:
        return real_model(name)
    except Unavailable as error:
        reason = f"The real model {name} cannot be had here. {error}"
    if os.environ.get("REQUIRE_REAL_MODEL") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct in Q4_1 (98 MB, fetched once). Read it, never write to it."""
    return model_or_skip("smollm2")
