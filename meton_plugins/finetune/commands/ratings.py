"""`/dataset rate` and `fix`: what the user thinks of an answer."""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING, Any, Final

from ..errors import NotFound, UsageError
from ..units import many
from .edge import note, say, show_json
from .examples import library_of, named
from .options import Parser, split

if TYPE_CHECKING:
    from ...host.api import Host
    from ..collect.live import LiveTurns
    from ..library import Example, Library
    from ..paths import Home

__all__ = ["fix", "rate", "unquoted"]

#: Option or id before the text of a correction; an id is long and has a digit, so that no English word is one.
_TURN: Final = re.compile(r"--turn(?:=|\s+)(\S+)(?:\s+|\Z)")
_UNDO: Final = re.compile(r"--undo(?:\s+|\Z)")
_ID: Final = re.compile(r"(?=[a-f]*\d)([0-9a-f]{6,64})(?:\s+|\Z)")
#: What may be meant as an id, and may be a word of the text.
_SHORT: Final = re.compile(r"(?=[a-f]*\d)([0-9a-f]{4,5})(?:\s+|\Z)")


def rate(host: Host, home: Home, live: LiveTurns | None, rest: str) -> int:
    """Score the last answer, one before it, named ones, or all of a session."""
    parser = Parser(
        prog="/dataset rate", description="Rate answers: 4 and 5 train, 3 stays a candidate, 1 and 2 never."
    )
    parser.add_argument("score", metavar="good|bad|1..5|none", help="good is 5, bad is 1, none takes a rating back")
    parser.add_argument("ids", nargs="*", metavar="ID", help="examples, or session:ID; the last answer by default")
    parser.add_argument("--turn", metavar="-N", help="the answer so many back: -1 is the last")
    words = parser.parse_args(split(rest))
    score = _score(words.score, words.ids)
    if words.ids and words.turn is not None:
        raise UsageError("Name examples or use --turn, not both.")
    with library_of(home) as library:
        if words.ids:
            names = [name for word in words.ids for name in named(library, word)]
        else:
            names = [_back(library, live, words.turn).id]
        rated = library.rate(list(dict.fromkeys(names)), score)
    done = "Took the rating back" if score is None else f"Rated {score}"
    if host.json:
        show_json(host, {"rated": [{"id": e.id, "score": e.score, "status": e.status} for e in rated]})
    elif len(rated) == 1:
        say(host, f"{done}: {_short(rated[0].question)}")
        note(host, f"{rated[0].id} · {_meaning(rated[0])}")
    else:
        say(host, f"{done}: {len(rated):,} answers")
    return 0


def fix(host: Host, home: Home, live: LiveTurns | None, rest: str) -> int:
    """Replace an answer by the user's words; without a text, in his editor."""
    if rest.split()[:1] in (["-h"], ["--help"]):
        usage = (
            "usage: /dataset fix [ID] [--turn -N] [TEXT]\n       /dataset fix --undo [ID] [--turn -N]\n\n"
            "The text becomes the answer to learn, and the old answer the rejected one.\n"
            "Without a text the answer opens in $EDITOR.\n"
            "With --undo your text is taken back, and the answer is unrated again."
        )
        raise _help(usage)
    if match := _UNDO.match(rest.strip()):
        return _undo(host, home, live, rest.strip()[match.end() :])
    name, turn, text = _fix_words(rest)
    from ..curate.secrets import scrub

    with library_of(home) as library:
        _check_meant(library, name, text)
        example = library.get(name) if name else _back(library, live, turn)
        if not text:
            from .editor import edit

            text = edit(example.target, home.root)
        # Together with the answer, so that a secret that was there keeps its placeholder's number.
        cleaned, secrets = scrub([*(message.content for message in example.context), example.question, text])
        fixed = library.fix(example.id, cleaned[-1])
    if host.json:
        kept = fixed.model_dump(include={"id", "score", "correction"})
        show_json(host, {**kept, "replaced": example.correction is not None, "secrets": secrets})
        return 0
    say(host, f"Fixed: {_short(fixed.question)}")
    note(host, f"{fixed.id} · your text is what will be learned; the old answer is kept as the rejected one")
    if example.correction is not None:
        note(host, "it replaces your earlier correction")
    if secrets:
        note(host, f"replaced before it was stored: {', '.join(sorted(secrets))}")
    return 0


def _undo(host: Host, home: Home, live: LiveTurns | None, rest: str) -> int:
    """Take a correction back."""
    name, turn, text = _fix_words(rest)
    if text and (name or turn or len(text.split()) > 1):
        raise UsageError("--undo takes an example or --turn, and no text: nothing was changed.")
    with library_of(home) as library:
        example = library.get(name or text) if name or text else _back(library, live, turn)
        left = library.unfix(example.id)
    if host.json:
        show_json(host, left.model_dump(include={"id", "score", "correction"}))
        return 0
    say(host, f"Took your correction back: {_short(left.question)}")
    note(host, f"{left.id} · the answer is its own again, and unrated")
    return 0


def _score(word: str, ids: list[str]) -> int | None:
    """The score; `/+ 4` arrives as `good 4`, so a lone digit after the word makes it exact."""
    from ..library.records import score_of

    if word.lower() == "none":
        return None
    score = score_of(word)
    if word.lower() in ("good", "bad") and ids and re.fullmatch(r"[1-5]", ids[0]):
        exact = int(ids.pop(0))
        if abs(exact - score) > 2:
            raise UsageError(f"{word} and {exact} contradict each other: type /dataset rate {exact}.")
        return exact
    return score


def _back(library: Library, live: LiveTurns | None, turn: str | None) -> Example:
    """The answer `turn` back, the last by default: of the chat that goes on, else of the one that spoke last."""
    match = re.fullmatch(r"-([1-9]\d{0,5})", turn or "-1")
    if match is None:
        raise UsageError(f"--turn counts back from the last answer: -1 is the last, not {turn!r}.")
    number = int(match.group(1))
    name = None if live is None else live.back(number)
    if name is not None:
        return library.get(name)
    answers = library.last_session()
    if not answers:
        raise NotFound("There is no answer to rate yet: take some in with /dataset harvest.")
    if number > len(answers):
        raise NotFound(f"The last session has {many(len(answers), 'answer')}, so there is no --turn -{number}.")
    return answers[number - 1]


def _fix_words(rest: str) -> tuple[str | None, str | None, str]:
    """Id, turn and text. The text is taken as it was typed: an apostrophe in it opens no quote."""
    name: str | None = None
    turn: str | None = None
    text = rest.strip()
    while True:
        if turn is None and (match := _TURN.match(text)):
            turn = match.group(1)
        elif name is None and (match := _ID.match(text)):
            name = match.group(1)
        else:
            break
        text = text[match.end() :]
    if text == "--turn":
        raise UsageError("--turn needs a number, such as -2.")
    if name and turn:
        raise UsageError("Name an example or use --turn, not both.")
    return name, turn, unquoted(text)


def unquoted(text: str) -> str:
    """`text` without the quotes of one quoted word, or those with which a shell's words were joined to a line."""
    try:
        words = split(text)
    except UsageError:
        return text
    if (len(words) == 1 and text[0] in "'\"") or shlex.join(words) == text:
        return " ".join(words)
    return text


def _meaning(example: Example) -> str:
    if example.failure is not None and example.correction is None:
        return f"will not train ({example.failure}), unless you put your own text in its place with /fix"
    match example.status:
        case "usable":
            return "will train"
        case "candidate":
            return "stays a candidate"
        case "rejected":
            return "will never train"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 100 else text[:99] + "…"


def _help(text: str) -> Any:
    from .options import HelpWanted

    return HelpWanted(text)


def _check_meant(library: Library, name: str | None, text: str) -> None:
    """UsageError where a text begins with what other commands take for an example: the wrong answer would be fixed."""
    if name is None and text.startswith("session:"):
        raise UsageError("/dataset fix takes one example's ID, not a session: see /dataset list.")
    if name is None and (match := _SHORT.match(text)):
        try:
            meant = library.get(match.group(1)).id
        except NotFound:
            return
        raise UsageError(
            f"{match.group(1)} may mean the example {meant}: type its whole ID, or begin the text otherwise."
        )
