"""`--from`, `--replay` and `--recipe` of `/finetune start`: a run's first settings, and what it goes on from."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..errors import ModelError, UsageError
from ..settings import Settings, TrainSettings, validated
from .edge import note
from .options import Parser, settings_from

if TYPE_CHECKING:
    from ...host.api import Host
    from ..paths import Home
    from ..recipes import Recipe
    from ..train.planner import Ingredients
    from ..train.record import BaseRecord
    from ..train.runs import Run

__all__ = ["Origin", "base_of", "check_same_base", "origin", "origin_flags", "replay_of", "told"]

#: What an adapter is made of. Nobody can choose it anew for one that is there.
ADAPTERS_OWN: Final = ("lora_rank", "lora_alpha", "lora_targets")

#: More old examples for each new one than this leave nothing of the new.
MOST_REPLAY: Final = 100

#: Flags of the tools of old, which the guide names, and what takes their place.
OLD_FLAGS: Final = {
    "--sample-start": "the chat template marks where a sample starts, and only answers are learned; "
    "see /dataset build --form and /dataset preview",
    "--model-base": "--base takes its place",
    "--lora-out": "--name takes its place: a run keeps its adapters in its own folder, and /export adapter writes one",
    "--train-data": "--dataset takes its place: /dataset import takes a file in, /dataset build freezes a dataset",
}


class Origin(NamedTuple):
    """What `--from` and `--recipe` say. `rate` tells how the learning rate came about, where nobody typed it."""

    settings: TrainSettings
    parent: Run | None = None
    recipe: Recipe | None = None
    rate: str = ""


class _Refused(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        flag = self.option_strings[0]
        raise UsageError(f"{parser.prog} does not take {flag}: {OLD_FLAGS[flag]}.")


def origin_flags(parser: Parser) -> None:
    """Where a run's first weights and settings come from."""
    parser.add_argument("--recipe", metavar="NAME", help="settings of a strategy: see /finetune recipes")
    parser.add_argument(
        "--from", dest="from_run", metavar="RUN", help="go on from this run's best adapter, with its settings"
    )
    parser.add_argument(
        "--replay", metavar="X",
        help="with --from: learn what is new in the dataset, and X examples for each new one that were learned before; "
        "0 for the new alone (default: the whole dataset)",
    )  # fmt: skip
    for flag in OLD_FLAGS:
        parser.add_argument(flag, action=_Refused, nargs="?", help=argparse.SUPPRESS)


def origin(home: Home, settings: Settings, options: argparse.Namespace) -> Origin:
    """The settings of a run: the defaults, or its parent's; over them settings.toml's, the recipe's, the flags'."""
    from ..recipes import laid_over, load_recipe

    recipe = load_recipe(home, options.recipe) if options.recipe else None
    if options.from_run is None:
        if options.replay is not None:
            raise UsageError("--replay is about what an earlier run has learned: name it with --from RUN.")
        train = laid_over(settings.train, recipe.train) if recipe else settings.train
        return Origin(settings_from(options, train), None, recipe)
    from ..train.lineage import adapter_of
    from ..train.runs import find_run

    parent = find_run(home.runs, options.from_run)
    adapter_of(parent)
    own = {name: getattr(parent.record.settings, name) for name in ADAPTERS_OWN}
    inherited, rate = _inherited(parent, settings.train)
    if recipe and "learning_rate" in recipe.train.model_fields_set:
        rate = f"the recipe {options.recipe} says so"
    wanted = settings_from(options, laid_over(inherited, recipe.train) if recipe else inherited)
    for name, value in own.items():
        if getattr(options, name, None) is not None and getattr(wanted, name) != value:
            text = ",".join(value) if isinstance(value, tuple) else f"{value:g}"
            raise UsageError(
                f"--{name.replace('_', '-')} is the adapter's own, and that of {parent.name} has {text}: leave it out, "
                "or start a new run without --from."
            )
    train = validated(TrainSettings, {**wanted.model_dump(), **own}, "flags")
    return Origin(train, parent, recipe, "" if options.learning_rate is not None else rate)


def _inherited(parent: Run, written: TrainSettings) -> tuple[TrainSettings, str]:
    """The parent's settings with those over them that settings.toml says, and why the learning rate is what it is."""
    from ..gguf.chat_template import BUILT_IN
    from ..train.runs import CHAT_TEMPLATE

    record = parent.record
    values: dict[str, Any] = record.settings.model_dump()
    kept = parent.folder / CHAT_TEMPLATE
    if values["chat_template"] not in (None, *BUILT_IN) and kept.is_file():
        values["chat_template"] = str(kept)  # the user's own file may be another one by now, or gone
    if record.parent is None:
        values["learning_rate"] /= 2
        rate = f"half of {parent.name}'s"
    else:
        # Halved once: a chain of refreshes would otherwise end where nothing is learned any more.
        rate = f"as {parent.name}'s, which went on from another run itself"
    said = written.model_dump(exclude_unset=True)
    if "learning_rate" in said:
        rate = f"settings.toml says so; without it, it were {values['learning_rate']:g}, {rate}"
    return validated(TrainSettings, {**values, **said}, "settings.toml"), rate


def replay_of(options: argparse.Namespace) -> float | None:
    """The number after --replay."""
    if options.replay is None:
        return None
    try:
        ratio = float(options.replay)
    except ValueError:
        ratio = math.nan
    if not 0 <= ratio <= MOST_REPLAY:
        raise UsageError(f"--replay takes a number from 0 to {MOST_REPLAY}, not {str(options.replay)[:40]!r}.")
    return ratio


def base_of(parent: Run) -> BaseRecord | None:
    """The parent's base where it lies as it was, so that it need not be read whole; None where it has to be."""
    base = parent.record.base
    path = Path(base.path)
    try:
        facts = path.stat()
    except OSError as error:
        raise ModelError(
            f"The base of {parent.name} is gone from {path}: put it back, or name the same file with --base."
        ) from error
    return base if (facts.st_size, facts.st_mtime_ns) == (base.size, base.mtime_ns) else None


def check_same_base(parent: Run, base: BaseRecord) -> None:
    """ModelError where `base` is another file than the one that the adapter of `parent` was trained on."""
    before = parent.record.base
    if base.sha256 != before.sha256:
        raise ModelError(
            f"The adapter of {parent.name} belongs to {before.name or before.path} ({before.sha256[:8]}), and "
            f"{base.name or base.path} is another file ({base.sha256[:8]}): name that base, or leave out --base."
        )


def told(host: Host, made_of: Ingredients, found: Origin) -> None:
    """Say what a run goes on from and with what, and where its dataset is not what its recipe wants."""
    from ..train.planner import chosen

    parent, replay = made_of.parent, chosen(made_of).replay
    if parent and replay:
        loss = parent.state.best_loss
        older = " with the form" if parent.record.loss_counts == "all" else ""
        was = "" if loss is None else f", validation loss {loss:.3f}{older}"
        why = f" ({found.rate})" if found.rate else ""
        rank, alpha = made_of.settings.lora_rank, made_of.settings.lora_alpha
        note(host, f"It goes on from the best adapter of {parent.name} (rank {rank}, alpha {alpha:g}{was}).")
        note(host, f"Learning rate {made_of.settings.learning_rate:g}{why}.")
        left = f", {replay.old - replay.again} left out" if replay.again < replay.old else ""
        note(host, f"Of its examples {replay.new} are new; {replay.again} that were learned before come again{left}.")
        if replay.unfit:
            many = "1 example that judged was" if replay.unfit == 1 else f"{replay.unfit} examples that judged were"
            note(host, f"{many} learned by {parent.name} or before it, and left out of this run.")
        if any(line.trained or line.through for line in parent.redacted):
            note(host, f"{parent.name} learned words that you had forgotten since: its weights pass them on.")
    if found.recipe and made_of.recipe:
        _built_otherwise(host, made_of, found.recipe)


def _built_otherwise(host: Host, made_of: Ingredients, recipe: Recipe) -> None:
    from ..curate.dataset import read_manifest

    wanted, built = recipe.build.model_dump(exclude_unset=True), read_manifest(made_of.dataset).settings
    other = [name for name, value in wanted.items() if getattr(built, name) != value]
    if other:
        note(
            host,
            f"The recipe wants a dataset with another {', '.join(other)}: /dataset build --recipe {made_of.recipe}",
        )
