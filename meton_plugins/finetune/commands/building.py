"""`/dataset build`: a dataset frozen from the library, and written out where another trainer wants a file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from ..errors import EngineError, FinetuneError, ModelError, UsageError
from ..settings import BuildSettings, Settings, load
from ..units import many
from .edge import note, say, show_json
from .examples import system_of
from .harvesting import take
from .options import Parser, flags_of, settings_from, split

if TYPE_CHECKING:
    from argparse import Namespace

    from ...host.api import Host
    from ..collect.harvest import HarvestReport
    from ..collect.imports import ImportReport
    from ..curate.build import CountTokens
    from ..curate.output import Written
    from ..curate.sources import Source
    from ..library import Library
    from ..paths import Home
    from ..turn import Message

__all__ = ["build"]

#: More rows of one example than this teach it by heart.
HEAVIEST: Final = 100


class _Taken(NamedTuple):
    """What was brought into the library before the build."""

    harvest: HarvestReport | None
    imports: list[ImportReport]
    sources: list[Source]


def build(host: Host, home: Home, rest: str) -> int:
    """Freeze the examples that the settings choose, and write them out where a file is named."""
    words = _parser().parse_args(split(rest))
    settings = load(home.settings)
    _check(words)
    wanted = settings_from(words, _recipe(home, words.recipe, settings.build))
    from ..curate import dataset
    from ..curate.output import check_output, write_output
    from ..library import Library

    output = check_output(home.datasets, Path(words.output), words.force) if words.output else None
    with Library(home.library) as library:
        taken = _take(host, library, words)
        if words.dry_run:
            return _planned(host, dataset.plan(library, wanted, taken.sources), taken)
        base, count, remark = _counter(home, settings, words.base, words.chat_template)
        render = _renderer(settings, words) if output and words.format == "llama" and words.base else None
        freeze = {"name": words.name, "sources": taken.sources, "recipe": words.recipe}
        try:
            manifest = dataset.build(library, wanted, home.datasets, base=base, count_tokens=count, **freeze)
        except (EngineError, ModelError) as error:
            if words.base and isinstance(error, ModelError):
                raise
            remark = f"tokens were not counted: {error.sentence}"
            manifest = dataset.build(library, wanted, home.datasets, **freeze)
    path = home.datasets / manifest.id
    written = write_output(path, output, words.format, words.side, render=render) if output else None
    if host.json:
        value = {**manifest.model_dump(mode="json"), "path": str(path), "name": words.name, "note": remark}
        show_json(host, {**value, **_as_json(taken), "output": asdict(written) if written else None})
        return 0
    from .build_views import built

    _show(host, taken)
    built(host, manifest, path, words.name)
    for source in manifest.sources:
        examples, rows = many(source.examples, "example"), many(source.rows, "row")
        note(host, f"source {source.label} × {source.weight:g}: {examples}, {rows} to train on")
    if remark:
        note(host, remark)
    if written:
        _told(host, written, words.side, wanted)
    return 0


def _parser() -> Parser:
    from ..curate.output import FORMATS

    parser = Parser(prog="/dataset build", description="Freeze the rated examples as a dataset to train on.")
    flags_of(parser, BuildSettings)
    parser.add_argument("--recipe", metavar="NAME", help="settings of a strategy: see /finetune recipes")
    parser.add_argument("--name", metavar="NAME", help="a name for it, beside its id")
    parser.add_argument(
        "--base", metavar="MODEL", help="count tokens as this base model does: a GGUF or an Ollama name"
    )
    parser.add_argument("--chat-template", metavar="NAME|FILE", help="for a base that has none of its own")
    parser.add_argument("--dry-run", action="store_true", help="show what would be left, freeze nothing")
    parser.add_argument("--conversations-dir", metavar="PATH", help="harvest this folder first")
    parser.add_argument(
        "--source", action="append", default=[], metavar="NAME[:WEIGHT]",
        help="only from here, each example so often to train on (default: 1): a file or folder, imported first, the "
        "name of an earlier import, or library for all; more than once",
    )  # fmt: skip
    # The old utility's word for it.
    parser.add_argument("--min-quality", dest="quality_threshold", metavar="X", help="the same as --quality-threshold")
    out = parser.add_argument_group("To write it out as well")
    out.add_argument("--output", metavar="FILE", help="write the rows to this file, too; .json gets one list")
    out.add_argument(
        "--format", choices=FORMATS, default="llama",
        help="of that file (default: llama): llama is [INST] text, with --base the base's own chat template; chat is "
        "ChatML text; preference are the corrections",
    )  # fmt: skip
    out.add_argument(
        "--side", choices=("all", "train", "validation", "heldout"), default="all", help="which rows (default: all)"
    )
    out.add_argument("--force", action="store_true", help="replace a file that was not written from a dataset")
    return parser


def _check(words: Namespace) -> None:
    if not words.output and (words.format != "llama" or words.side != "all" or words.force):
        raise UsageError("--format, --side and --force are about the file that --output FILE names: name one.")
    if words.dry_run and words.output:
        raise UsageError("--dry-run freezes nothing, so there is nothing to write: leave out --output.")


def _recipe(home: Home, name: str | None, settings: BuildSettings) -> BuildSettings:
    if name is None:
        return settings
    from ..recipes import laid_over, load_recipe

    return laid_over(settings, load_recipe(home, name).build)


def _take(host: Host, library: Library, words: Namespace) -> _Taken:
    """Harvest and import what the command names."""
    from ..collect.imports import label_of
    from ..curate.sources import LIBRARY, Source
    from .importing import take as bring

    named = [_weighted(text) for text in words.source]
    report = take(library, Path(words.conversations_dir).expanduser()) if words.conversations_dir else None
    imports: list[ImportReport] = []
    sources: list[Source] = []
    for name, weight in named:
        path = Path(name).expanduser()
        if name == LIBRARY or not path.exists():
            sources.append(Source(name, weight))
            continue
        imports.append(bring(host, library, [path]))
        sources.append(Source(label_of(path), weight, frozenset(imports[-1].ids)))
    return _Taken(report, imports, sources)


def _weighted(text: str) -> tuple[str, float]:
    """A source and its weight, 1 where none is written."""
    name, colon, number = text.rpartition(":")
    if not colon or not name:
        return text, 1.0
    try:
        weight = float(number)
    except ValueError:
        return text, 1.0
    if not 0 < weight <= HEAVIEST:
        raise UsageError(f"A source's weight is a number above 0 and up to {HEAVIEST}, not {number[:40]!r}.")
    return name, weight


def _planned(host: Host, plan: Any, taken: _Taken) -> int:
    sides = {side: len(plan.side(side)) for side in ("train", "validation", "heldout")}
    stages = [stage.model_dump() for stage in plan.funnel.stages]
    if host.json:
        show_json(host, {"dry_run": True, "funnel": stages, "counts": sides, **_as_json(taken)})
        return 0
    from .build_views import funnel

    _show(host, taken)
    funnel(host, plan.funnel.stages, sides)
    kept = "; what was harvested or imported for it stays in the library" if taken.harvest or taken.imports else ""
    note(host, f"nothing was frozen{kept}")
    return 0


def _as_json(taken: _Taken) -> dict[str, Any]:
    from .importing import as_json

    return {"harvest": asdict(taken.harvest) if taken.harvest else None, "imports": [as_json(r) for r in taken.imports]}


def _show(host: Host, taken: _Taken) -> None:
    from .build_views import harvested
    from .importing import imported

    if taken.harvest:
        harvested(host, taken.harvest)
    for report in taken.imports:
        imported(host, report)


def _told(host: Host, written: Written, side: str, settings: BuildSettings) -> None:
    say(host, f"Wrote {many(written.rows, 'row')} as {written.format}: {written.path}")
    for reason, number in sorted(written.left.items()):
        note(host, f"  {number} left out: {reason}")
    if settings.form == "meton":
        note(host, "the rows keep Meton's THOUGHT/ACTION/ANSWER form, which it needs; --form plain writes texts alone")
    if side == "all":
        note(host, "validation and held-out rows are in it, too; --side train leaves them out")


def _renderer(settings: Settings, words: Namespace) -> Callable[[list[Message]], str]:
    """The base's own chat template, which needs its file and no engine."""
    from ..gguf.chat_template import template_for
    from ..gguf.inspect import inspect
    from ..serve.bases import find_base

    base = find_base(words.base, settings.serve.ollama_host)
    template = template_for(inspect(base.path), words.chat_template or settings.train.chat_template)

    def render(messages: Sequence[Message]) -> str:
        return template.render([{"role": m.role, "content": m.content} for m in messages], generate=False)

    return render


def _counter(
    home: Home, settings: Settings, named: str | None, template: str | None
) -> tuple[dict[str, Any] | None, CountTokens | None, str | None]:
    """Base, its token counter, and a remark where tokens will not be counted.

    A base that was named on the command line must be there; one from the settings may be away.
    """
    text = named or settings.base
    if text is None:
        return None, None, None
    try:
        from ..engine.jobs import count_tokens
        from ..serve.bases import find_base

        path = find_base(text, settings.serve.ollama_host).path
        system = system_of(home, settings.train)
    except (ImportError, EngineError) as error:
        return None, None, f"tokens were not counted: {error}"
    except FinetuneError as error:
        if named:
            raise
        return None, None, f"tokens were not counted: {error.sentence}"
    base = {"name": text, "file": path.name, "bytes": path.stat().st_size}
    return base, lambda chats: count_tokens(path, chats, template or settings.train.chat_template, system), None
