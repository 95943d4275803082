"""`/dataset list`, `show`, `stats`, `preview`, `versions`, `diff`: look before you train."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from ..errors import FinetuneError, UsageError
from ..settings import Settings, TrainSettings, load
from .edge import show_json
from .examples import library_of, system_of
from .options import Parser, flags_of, settings_from, split

if TYPE_CHECKING:
    from ...host.api import Host
    from ..curate.sample import Sample
    from ..curate.statistics import Tokens
    from ..engine.jobs import Seen
    from ..library import Library
    from ..paths import Home

__all__ = ["diff", "list_", "preview", "show", "stats", "versions"]

#: The settings of a training that decide what a row is.
ROW: Final = ("ctx_size", "chat_template", "template")
BASE_HELP: Final = "as this base model reads them: a GGUF or an Ollama name"


def list_(host: Host, home: Home, rest: str) -> int:
    """Examples of the library, newest first."""
    parser = Parser(prog="/dataset list", description="Examples of the library, newest first.")
    parser.add_argument("--limit", type=int, default=20, metavar="N", help="at most so many; 0 for all (default: 20)")
    parser.add_argument("--unrated", action="store_true", help="only those without a rating")
    parser.add_argument("--search", metavar="TEXT", help="only those that hold this text")
    parser.add_argument("--tag", metavar="WORD", help="only those with this tag")
    words = parser.parse_args(split(rest))
    if words.limit < 0:
        raise UsageError("--limit takes a number from 0 up.")
    with library_of(home) as library:
        chosen = {"unrated": words.unrated, "search": words.search, "tag": words.tag}
        found = library.find(limit=words.limit or None, **chosen)
        total = library.count(**chosen) if len(found) == words.limit else len(found)
        empty = not found and not library.count()
    if host.json:
        show_json(host, [{**example.model_dump(exclude={"steps"}), "status": example.status} for example in found])
        return 0
    from .library_views import listed

    listed(host, found, total, empty)
    return 0


def show(host: Host, home: Home, rest: str) -> int:
    """One example whole, with the parts of its quality score."""
    parser = Parser(prog="/dataset show", description="One example whole, with the parts of its quality score.")
    parser.add_argument("id", metavar="ID")
    words = parser.parse_args(split(rest))
    from ..curate.quality import judge

    with library_of(home) as library:
        example = library.get(words.id)
        calls = library.calls(example.id)
    quality = judge(example)
    if host.json:
        whole = {**example.model_dump(exclude={"steps"}), "calls": [call.model_dump() for call in calls]}
        show_json(host, {**whole, "status": example.status, "quality": asdict(quality)})
        return 0
    from .library_views import shown

    shown(host, example, quality, len(calls))
    return 0


def stats(host: Host, home: Home, rest: str) -> int:
    """How the library stands: ratings, tags, lengths, and whether there is enough to train on."""
    parser = Parser(prog="/dataset stats", description="How the library stands, and whether it is enough to train on.")
    parser.add_argument("--base", metavar="MODEL", help=f"count tokens too, {BASE_HELP}")
    flags_of(parser, TrainSettings, only=ROW)
    words = parser.parse_args(split(rest))
    for name in ROW:
        if getattr(words, name) is not None and not words.base:
            raise UsageError(f"--{name.replace('_', '-')} matters for tokens only: add --base MODEL to count them.")
    from ..curate.statistics import take_stock

    with library_of(home) as library:
        found = take_stock(library)
        if words.base:
            settings = load(home.settings)
            train = settings_from(words, settings.train)
            found = found.model_copy(update={"tokens": _tokens(home, library, settings, train, words.base)})
    if host.json:
        whole = found.model_dump(mode="json")
        show_json(host, {**whole.pop("counts"), **whole})
        return 0
    from .stats_view import stood

    stood(host, found)
    return 0


def preview(host: Host, home: Home, rest: str) -> int:
    """The rows that would be trained on, token by token."""
    parser = Parser(
        prog="/dataset preview",
        description="What would be trained on, exactly: each token of a row, and which of them are learned.",
    )
    parser.add_argument(
        "name", nargs="?", metavar="DATASET|ID", help="a dataset, an example or a row (ID#2), or `library` for what a "
        "build would take now; the dataset built last by default",
    )  # fmt: skip
    parser.add_argument("--base", metavar="MODEL", help=f"show tokens, {BASE_HELP} (default: the setting base)")
    parser.add_argument("--random", action="store_true", help="drawn rows, not the first ones")
    parser.add_argument("--number", type=int, default=1, metavar="N", help="so many rows (default: 1)")
    parser.add_argument("--seed", type=int, metavar="N", help="draw the rows that this number drew before")
    flags_of(parser, TrainSettings, only=ROW)
    words = parser.parse_args(split(rest))
    if words.number < 1:
        raise UsageError("--number takes a number from 1 up.")
    settings = load(home.settings)
    train = settings_from(words, settings.train)
    seed = random.randrange(10_000) if words.random and words.seed is None else words.seed
    from ..curate.sample import take_sample

    with library_of(home) as library:
        sample = take_sample(home, library, words.name, settings.build, number=words.number, seed=seed)
    base, remark = words.base or settings.base, None
    seen: list[Seen] | None = None
    if base:
        try:
            seen = _seen(home, settings, train, base, sample)
        except (ImportError, FinetuneError) as error:
            if words.base:
                raise
            remark = f"without tokens: {error}"
    else:
        remark = "tokens need a base model: add --base MODEL, a GGUF or an Ollama name"
    if host.json:
        show_json(host, _json(sample, seen, base, train, remark))
        return 0
    from .preview_view import previewed

    previewed(host, sample, seen, train.ctx_size, remark)
    return 0


def versions(host: Host, home: Home, rest: str) -> int:
    """The datasets built so far."""
    Parser(prog="/dataset versions", description="The datasets built so far.").parse_args(split(rest))
    from ..curate import frozen
    from ..curate.manifest import MANIFEST

    found, names = frozen.versions(home), frozen.names(home)
    times = {m.id: (home.datasets / m.id / MANIFEST).stat().st_mtime for m in found}
    if host.json:
        rows: list[dict[str, Any]] = []
        for m in found:
            own = [name for name in names if names[name] == m.id]
            base = m.tokens.base.get("name") if m.tokens else None
            rows.append({"id": m.id, "names": own, "built": times[m.id], "base": base, **m.counts})
        show_json(host, rows)
        return 0
    from .build_views import versioned

    versioned(host, found, names, times)
    return 0


def diff(host: Host, home: Home, rest: str) -> int:
    """What differs between two datasets."""
    parser = Parser(prog="/dataset diff", description="What leads from one dataset to another: recipe, rows, tokens.")
    parser.add_argument("a", metavar="A", help="a dataset: its name, its id or how that begins, or `latest`")
    parser.add_argument("b", metavar="B", nargs="?", default="latest", help="the other (default: the one built last)")
    words = parser.parse_args(split(rest))
    from ..curate import frozen
    from ..curate.diff import compare

    found = compare(*(frozen.load(frozen.resolve(home, name)) for name in (words.a, words.b)))
    if host.json:
        show_json(host, {**found.model_dump(mode="json"), "same": found.same})
        return 0
    from .diff_view import differed

    differed(host, found)
    return 0


def _tokens(home: Home, library: Library, settings: Settings, train: TrainSettings, named: str) -> Tokens | None:
    from ..curate.statistics import tokens
    from ..engine.jobs import count_tokens
    from ..serve.bases import find_base

    path, system = find_base(named, settings.serve.ollama_host).path, system_of(home, train)
    return tokens(
        library, settings.build, named, lambda chats: count_tokens(path, chats, train.chat_template, system),
        train.ctx_size,
    )  # fmt: skip


def _seen(home: Home, settings: Settings, train: TrainSettings, named: str, sample: Sample) -> list[Seen]:
    from ..engine.jobs import preview as make
    from ..serve.bases import find_base

    base = find_base(named, settings.serve.ollama_host)
    return make(
        base.path, [(row.id, row.messages) for row in sample.rows], system=system_of(home, train),
        ctx_size=train.ctx_size, learned=sample.learned, chat_template=train.chat_template,
    )  # fmt: skip


def _json(
    sample: Sample, seen: Sequence[Seen] | None, base: str | None, train: TrainSettings, remark: str | None
) -> Mapping[str, Any]:
    if seen is None:
        rows: list[dict[str, Any]] = [row.model_dump() for row in sample.rows]
    else:
        rows = [{**row._asdict(), "pieces": [piece._asdict() for piece in row.pieces]} for row in seen]
    return {
        "from": {sample.kind: sample.name}, "total": sample.total, "seed": sample.seed,
        "base": None if seen is None else base, "ctx_size": train.ctx_size, "learned": sample.learned,
        "rows": rows, "remarks": sample.remarks, "note": remark,
    }  # fmt: skip
