"""The engine that is installed for the user, found before any test moves the user data folder."""

from __future__ import annotations

import os

import pytest

from meton_plugins.finetune.engine.package import Engine, find

INSTALLED = find()


def installed_or_skip() -> Engine:
    """The engine. The test that asks is skipped without one; it fails where REQUIRE_ENGINE=1."""
    if INSTALLED is None:
        reason = "The training engine is not installed: run `meton-finetune finetune setup`, then the tests again."
        if os.environ.get("REQUIRE_ENGINE") == "1":
            pytest.fail(reason)
        pytest.skip(reason)
    return INSTALLED
