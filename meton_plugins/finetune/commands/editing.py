"""`/dataset edit`, `tag` and `search`: mend what an example says, label it, find it again."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from ..errors import DataError, UsageError
from .edge import harmless, note, say, show_json
from .examples import library_of, named
from .options import HelpWanted, Parser, split
from .ratings import unquoted

if TYPE_CHECKING:
    from ...host.api import Host
    from ..library import Example
    from ..library.searching import Hit
    from ..paths import Home

__all__ = ["edit", "search", "tag"]

_LIMIT: Final = re.compile(r"--limit(?:=|\s+)(\d{1,6})(?:\s+|\Z)")

_RULE: Final = "=== the answer, below this line ==="

TAG_USAGE: Final = """\
usage: /dataset tag ID... [+WORD ...] [-WORD ...]
       /dataset tag list

Put tags on examples with +WORD and take them off with -WORD. An ID may also be session:ID.
`tag list` shows every tag with the number of its examples; /dataset list --tag WORD shows those."""

SEARCH_USAGE: Final = """\
usage: /dataset search [--limit N] TEXT

Examples that hold all of these words, or parts of words, in question, answer or correction; the best match first, at
most N (20). The text is taken as it was typed: quotes, dashes and stars in it mean themselves."""


def edit(host: Host, home: Home, rest: str) -> int:
    """Change what an example asks, what it should answer, or both."""
    parser = Parser(
        prog="/dataset edit",
        description="Open an example's question and answer in $EDITOR, or take them from the line. An edited answer is "
        "a correction: the old one is kept as the rejected one.",
    )
    parser.add_argument("id", metavar="ID")
    parser.add_argument("--question", metavar="TEXT", help="what it shall ask")
    parser.add_argument("--answer", metavar="TEXT", help="what it shall answer")
    words = parser.parse_args(split(rest))
    from ..curate.secrets import scrub

    with library_of(home) as library:
        example = library.get(words.id)
        question, answer = words.question, words.answer
        if question is None and answer is None:
            question, answer = _opened(example, home)
        asked = example.question if question is None else question
        said = example.target if answer is None else answer
        if not asked.strip() or not said.strip():
            raise DataError("A question and an answer need some text, so nothing was changed.")
        # Together, so that a secret that was there keeps its placeholder's number.
        cleaned, secrets = scrub([*(message.content for message in example.context), asked, said])
        changed = [
            name
            for name, new, old in (
                ("question", cleaned[-2], example.question), ("answer", cleaned[-1], example.target),
            )
            if new.strip() != old.strip()
        ]  # fmt: skip
        if "question" in changed:
            example = library.ask_instead(example.id, cleaned[-2])
        if "answer" in changed:
            example = library.fix(example.id, cleaned[-1])
    if host.json:
        kept = example.model_dump(include={"id", "question", "answer", "correction", "score"})
        show_json(host, {**kept, "changed": changed, "secrets": secrets})
        return 0
    if not changed:
        say(host, "Nothing was changed.")
        return 0
    say(host, f"Changed the {' and the '.join(changed)} of {example.id}.")
    if "answer" in changed:
        note(host, "your text is what will be learned; the old answer is kept as the rejected one")
    if secrets:
        note(host, f"replaced before it was stored: {', '.join(sorted(secrets))}")
    return 0


def _opened(example: Example, home: Home) -> tuple[str, str]:
    """Question and answer as the user left them in his editor."""
    from .editor import edit as opened

    rule = _RULE
    while rule in example.question or rule in example.target:
        rule = f"={rule}="
    text = opened(f"{example.question.strip()}\n\n{rule}\n\n{example.target.strip()}\n", home.root)
    question, found, answer = text.partition(rule)
    if not found or rule in answer:
        raise DataError(f"The line {rule!r} between question and answer is gone or doubled, so nothing was changed.")
    return question.strip(), answer.strip()


def tag(host: Host, home: Home, rest: str) -> int:
    """Put tags on examples, take them off, or list them."""
    words = split(rest)
    if not words or words[0] in ("-h", "--help"):
        raise HelpWanted(TAG_USAGE)
    if words == ["list"]:
        return _tags(host, home)
    from ..library.records import tag_of

    names = [word for word in words if word[0:1] not in ("+", "-")]
    add = [tag_of(word[1:]) for word in words if word[0:1] == "+"]
    drop = [tag_of(word[1:]) for word in words if word[0:1] == "-"]
    if not names or not (add or drop):
        raise UsageError("Say which examples, and +WORD or -WORD: /dataset tag ID +python -draft.")
    if both := set(add) & set(drop):
        raise UsageError(f"{sorted(both)[0]!r} cannot be put on and taken off at once.")
    with library_of(home) as library:
        ids = dict.fromkeys(name for word in names for name in named(library, word))
        tagged = library.tag(list(ids), add, drop)
    if host.json:
        show_json(host, {"tagged": [{"id": example.id, "tags": example.tags} for example in tagged]})
    elif len(tagged) == 1:
        say(host, f"{tagged[0].id}: {', '.join(tagged[0].tags) or 'no tags'}")
    else:
        say(host, f"Tagged {len(tagged)} examples.")
    return 0


def _tags(host: Host, home: Home) -> int:
    with library_of(home) as library:
        tags = library.tags()
    if host.json:
        show_json(host, tags)
        return 0
    if not tags:
        say(host, "No example has a tag yet: put one on with /dataset tag ID +WORD.")
    for name, number in tags.items():
        say(host, f"{number:6}  {name}")
    return 0


def search(host: Host, home: Home, rest: str) -> int:
    """Find examples by what they say."""
    if rest.strip() in ("", "-h", "--help"):
        raise HelpWanted(SEARCH_USAGE)
    text, limit = rest.strip(), 20
    if match := _LIMIT.match(text):
        text, limit = text[match.end() :], int(match[1])
        if not limit or not text:
            raise UsageError("Type /dataset search --limit N TEXT, with N from 1 up.")
    with library_of(home) as library:
        hits = library.search(unquoted(text), limit)
    if host.json:
        show_json(host, [_as_json(hit) for hit in hits])
        return 0
    if not hits:
        say(host, "No example holds that.")
    for hit in hits:
        _show(host, hit)
    return 0


def _as_json(hit: Hit) -> dict[str, object]:
    kept = hit.example.model_dump(include={"id", "session", "at", "score", "question", "tags"})
    return {**kept, "status": hit.example.status, "field": hit.field, "text": hit.piece.text, "marks": hit.piece.marks}


def _show(host: Host, hit: Hit) -> None:
    """An example in two lines: what it is, and where the words stand in it."""
    from rich.text import Text

    example = hit.example
    score = "·" if example.score is None else str(example.score)
    tags = f"  [{', '.join(example.tags)}]" if example.tags else ""
    question = " ".join(example.question[:300].split())
    say(host, f"{example.id}  {score}  {question[:90]}{tags}")
    head = f"  {hit.field}: "
    line = Text(head + harmless(hit.piece.text), style="dim")
    for start, end in hit.piece.marks:
        line.stylize("bold not dim", start + len(head), end + len(head))
    host.console.print(line, soft_wrap=not host.console.is_terminal)
