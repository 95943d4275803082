"""Everything that a user can set. Flags, help, settings.toml, plugin.toml and the docs table come from these models."""

from __future__ import annotations

import sys
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from .errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = [
    "BuildSettings",
    "GateSettings",
    "HarvestSettings",
    "ServeSettings",
    "Settings",
    "TrainSettings",
    "kind_of",
    "load",
    "one_sentence",
    "validated",
]

M = TypeVar("M", bound=BaseModel)
Fraction = Annotated[float, Field(ge=0, le=1)]

#: What pydantic calls the limits of a number.
_LIMITS = ("ge", "gt", "le", "lt")

#: All the projections of a transformer block that the engine can adapt.
PROJECTIONS = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


class _Options(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class TrainSettings(_Options):
    """How a LoRA is trained. The defaults suit 50 to 5,000 chats."""

    ctx_size: int = Field(1024, ge=8, le=131072, description="longest row in tokens; longer examples are left out")
    batch_size: int = Field(1, ge=1, le=1024, description="rows whose gradients make one step")
    epochs: int = Field(3, ge=1, le=10000, description="times through the training examples")
    learning_rate: float = Field(1e-4, gt=0, le=1, description="peak learning rate")
    lora_rank: int = Field(16, ge=1, le=1024, description="rank of the adapter")
    lora_alpha: float = Field(32, gt=0, le=4096, description="scale of the adapter: alpha / rank")
    lora_targets: tuple[str, ...] = Field(PROJECTIONS, description="projections to adapt, separated by commas")
    warmup: Fraction = Field(0.05, description="part of the steps in which the learning rate rises")
    weight_decay: float = Field(0.01, ge=0, le=1, description="AdamW's weight decay")
    max_grad_norm: float = Field(1.0, ge=0, description="gradients longer than this are scaled down; 0 for never")
    seed: int = Field(42, ge=0, lt=2**32, description="decides first weights and shuffling")
    save_steps: int = Field(50, ge=1, description="most steps between two checkpoints")
    save_minutes: float = Field(10, ge=0, description="most minutes between two checkpoints; 0 for steps alone")
    eval_steps: int = Field(0, ge=0, description="steps between two validations within an epoch; 0 for its end alone")
    patience: int = Field(2, ge=0, description="stop after so many validations without a better one; 0 for never")
    min_delta: float = Field(0.0, ge=0, description="how much lower a validation loss must be to count as better")
    threads: int = Field(0, ge=0, le=512, description="CPU threads; 0 for the number that is measured to be fastest")
    accelerate: bool = Field(True, description="compute by our own pass where it agrees with the engine's, not by its")
    precision: Literal["auto", "f32", "bf16"] = Field(
        "auto",
        description="numbers in which the base's weights are multiplied; auto: bf16 where the base is quantized and "
        "it is measured to be faster",
    )
    weights: Literal["auto", "unpacked", "packed"] = Field(
        "auto",
        description="keep the base's weights unpacked (4 bytes each, in bf16 2) or packed; auto: unpacked where that "
        "is measured to be faster and takes at most half of the free memory",
    )
    nice: int = Field(10, ge=0, le=19, description="how far the training gives way to other programs: 0 to 19")
    gpu_layers: int = Field(0, ge=0, le=1000, description="layers of the base on a GPU (Vulkan); 0 for the CPU alone")
    chat_template: str | None = Field(
        None, description="chatml, llama-2, llama-3, deepseek or a Jinja file, where the base has no chat template"
    )
    template: str = Field("basic", description="Modelfile template whose SYSTEM is in every row")

    def model_post_init(self, _context: object) -> None:
        unknown = [name for name in self.lora_targets if name not in PROJECTIONS]
        if unknown or not self.lora_targets:
            raise ValueError(f"lora_targets takes {', '.join(PROJECTIONS)}, not {', '.join(unknown) or 'nothing'}")


class BuildSettings(_Options):
    """Which examples of the library go into a dataset."""

    min_length: int = Field(1, ge=0, description="shortest answer, in characters")
    max_length: int = Field(20000, ge=1, description="longest question and answer together, in characters")
    filter_keyword: str | None = Field(None, description="only examples that mention this word")
    quality_threshold: Fraction = Field(0.5, description="lowest quality score")
    unrated: bool = Field(False, description="take unrated candidates too")
    deduplicate: bool = Field(True, description="keep one of each set of duplicates, exact and near")
    duplicate_threshold: float = Field(
        85, ge=80, le=100, description="how alike two questions, and their answers, are as duplicates: 80 to 100"
    )
    heldout: str | None = Field(None, description="tag of your own held-out set: its conversations only ever judge")
    context_turns: int = Field(2, ge=0, le=4, description="earlier turns of the conversation put before a question")
    exclude_system: bool = Field(False, description="drop the system messages of imported chats")
    max_tag_share: float = Field(
        1.0, gt=0, le=1, description="largest part of the dataset that one tag may have, where that can be reached"
    )
    form: Literal["meton", "plain"] = Field(
        "meton", description="meton: answers keep Meton's THOUGHT/ACTION/ANSWER form; plain: text alone"
    )
    plain_share: Fraction = Field(
        0.1, description="with the meton form: part of the training answers that is there as plain chats too"
    )


class HarvestSettings(_Options):
    """What is taken from conversations."""

    enabled: bool = Field(True, description="keep the turns of a chat in the library, rated or not")
    hint: bool = Field(True, description="show the words for rating in a dim line below an answer")
    conversations_dir: Path | None = Field(None, description="folder of conversation files; the host's by default")


class ServeSettings(_Options):
    """The Ollama server and the host's configuration."""

    ollama_host: str | None = Field(None, description="server address; OLLAMA_HOST by default")
    config: Path | None = Field(None, description="config.yaml whose slots are swapped; the host's by default")


class GateSettings(_Options):
    """What a tuned model has to show before it may take a slot. Losses are nats a token."""

    fewest: int = Field(20, ge=5, le=10000, description="held-out examples without which nothing is decided")
    against_base: float = Field(
        0.0, ge=-10, le=10, description="the 95% interval of (new - base) must end below this, in nats a token"
    )
    against_holder: float = Field(
        0.01, ge=-10, le=10, description="the 95% interval of (new - the slot's model) must end below this"
    )
    form_fall: float = Field(2.0, ge=0, le=100, description="points of a hundred that Meton's form may be kept less")
    forgetting: float = Field(
        0.05, ge=0, le=10, description="part by which the loss on the base's own answers may rise"
    )


class Settings(_Options):
    """settings.toml."""

    base: str | None = Field(None, description="base model to train on: a GGUF file or the name of an Ollama model")
    train: TrainSettings = TrainSettings()
    build: BuildSettings = BuildSettings()
    harvest: HarvestSettings = HarvestSettings()
    serve: ServeSettings = ServeSettings()
    gate: GateSettings = GateSettings()


def one_sentence(error: ValidationError, model: type[BaseModel]) -> str:
    """The first thing that pydantic found wrong with a `model`, in plain words."""
    first = error.errors(include_url=False)[0]
    name = ".".join(str(part) for part in first["loc"]) or "value"
    if first["type"] == "extra_forbidden":
        return f"there is no setting {name!r}"
    if first["type"] == "missing":
        return f"{name} is missing"
    wanted = None if first["type"] == "value_error" else _wanted(model, first["loc"])
    if wanted:
        return f"{name} takes {wanted}, not {_said(first['input'])}"
    message = first["msg"].removeprefix("Value error, ")
    return f"{name}: {message[:1].lower()}{message[1:]}"


def kind_of(annotation: Any) -> Any:
    """The plain type under Optional, Annotated and friends."""
    origin = typing.get_origin(annotation)
    if origin is Annotated:
        return kind_of(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        return kind_of(next(a for a in typing.get_args(annotation) if a is not type(None)))
    return annotation


def _wanted(model: type[BaseModel], place: Sequence[int | str]) -> str | None:
    """What the setting at `place` takes, in words; None where it is no setting of a known kind."""
    field = model.model_fields.get(str(place[0])) if place else None
    if field is None:
        return None
    kind = kind_of(field.annotation)
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        return _wanted(kind, place[1:]) if place[1:] else f"settings of its own, below [{place[0]}]"
    if typing.get_origin(kind) is Literal:
        return " or ".join(map(repr, typing.get_args(kind)))
    if typing.get_origin(kind) is tuple:
        return "a list of texts"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "a text", Path: "a path"}.get(kind)
    return f"{words}{_range(field.metadata)}" if words else None


def _range(limits: Sequence[Any]) -> str:
    """The limits of a field, as pydantic keeps them, in words."""
    ge, gt, le, lt = (next((getattr(one, name) for one in limits if hasattr(one, name)), None) for name in _LIMITS)
    most = le if lt is None else lt - 1  # of whole numbers alone
    if gt is not None:
        return f" above {gt}" + ("" if most is None else f" and up to {most}")
    if ge is not None:
        return f" from {ge} up" if most is None else f" from {ge} to {most}"
    return "" if most is None else f" up to {most}"


def _said(value: Any) -> str:
    return str(value).lower()[:40] if isinstance(value, bool) else repr(value)[:40]


def validated(model: type[M], values: dict[str, Any], where: str) -> M:
    """`values` as a `model`; ConfigError names `where` they came from."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {one_sentence(error, model)}.") from error


def load(path: Path) -> Settings:
    """settings.toml at `path`, or the defaults where there is none."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return Settings()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read ({error}).") from error
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not TOML ({error}): mend it, or move it away for the defaults.") from error
    return validated(Settings, values, str(path))
