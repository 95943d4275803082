"""Meton 1.1 forgot one import; without it every answer after a successful file read is lost."""

from __future__ import annotations

import json
from types import CodeType, FunctionType
from typing import Any

__all__ = ["give_json"]


def give_json(module: Any, owner: Any) -> bool:
    """Give `module` the name `json` where methods of `owner` use it and it is not there; whether it was needed."""
    if hasattr(module, "json"):
        return False
    methods = [value for value in vars(owner).values() if isinstance(value, FunctionType)]
    if not any("json" in _names(method.__code__) for method in methods):
        return False
    module.json = json
    return True


def _names(code: CodeType) -> set[str]:
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return set(code.co_names).union(*map(_names, inner))
