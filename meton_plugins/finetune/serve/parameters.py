"""PARAMETERs of a Modelfile: which exist, what they hold, and which of them Meton sends anew with each call."""

from __future__ import annotations

from typing import Final

from ..errors import ConfigError

__all__ = ["METON_SETTINGS", "Value", "check_parameter", "parse_parameter"]

Value = int | float | bool | str | list[str]

#: Ollama 0.34's `api.Options`. The server only logs an unknown name, and a wrong type fails at the first question.
KINDS: Final[dict[str, type]] = {
    "draft_num_predict": int,
    "frequency_penalty": float,
    "main_gpu": int,
    "min_p": float,
    "num_batch": int,
    "num_ctx": int,
    "num_gpu": int,
    "num_keep": int,
    "num_predict": int,
    "num_thread": int,
    "presence_penalty": float,
    "repeat_last_n": int,
    "repeat_penalty": float,
    "seed": int,
    "stop": list,
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "use_mmap": bool,
}

#: Names that older servers took and today's ignore or refuse.
RETIRED: Final = frozenset(
    {
        "f16_kv",
        "logits_all",
        "low_vram",
        "mirostat",
        "mirostat_eta",
        "mirostat_tau",
        "numa",
        "penalize_newline",
        "tfs_z",
        "typical_p",
        "use_mlock",
        "vocab_only",
    }
)

#: What Meton sends with each call, and the setting of its config.yaml that decides it.
METON_SETTINGS: Final[dict[str, str]] = {
    "num_ctx": "models.settings.num_ctx",
    "num_predict": "models.settings.max_tokens",
    "repeat_last_n": "models.settings.repeat_last_n",
    "repeat_penalty": "models.settings.repeat_penalty",
    "seed": "models.settings.seed",
    "temperature": "models.settings.temperature",
    "top_k": "models.settings.top_k",
    "top_p": "models.settings.top_p",
}

#: What Go's strconv.ParseBool takes.
_BOOLS: Final = {word: value for words, value in (("1 t T TRUE true True", True), ("0 f F FALSE false False", False))
                 for word in words.split()}  # fmt: skip


def _known(name: str) -> type:
    if name in RETIRED:
        raise ConfigError(f"Ollama no longer takes the PARAMETER {name}: remove that line.")
    if name not in KINDS:
        raise ConfigError(f"Ollama has no PARAMETER {name[:40]!r}; it has {', '.join(sorted(KINDS))}.")
    return KINDS[name]


def parse_parameter(name: str, text: str) -> Value:
    """The value that a Modelfile's `text` stands for; a stop is a list of one."""
    kind = _known(name)
    try:
        if kind is list:
            return [text]
        if kind is bool:
            return _BOOLS[text]
        if "_" in text:  # Python would read 1_000, Ollama does not
            raise ValueError(text)
        return check_parameter(name, kind(text))
    except (KeyError, ValueError) as error:
        words = {int: "a whole number", float: "a number", bool: "true or false"}[kind]
        raise ConfigError(f"PARAMETER {name} takes {words}, not {text[:40]!r}.") from error


def check_parameter(name: str, value: Value) -> Value:
    """`value` itself where it may be sent for `name`."""
    kind = _known(name)
    if kind is list:
        good = isinstance(value, list) and all(isinstance(item, str) for item in value)
    elif kind is float:
        good = isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 3.4e38  # NaN, inf
    elif kind is int:
        good = isinstance(value, int) and not isinstance(value, bool) and abs(value) < 2**31
    else:
        good = isinstance(value, bool)
    if not good:
        raise ConfigError(f"PARAMETER {name} cannot be {str(value)[:40]!r}.")
    return value
