"""`/model-register compare A B`: the answers of two models side by side, and which of them the user finds better."""

from __future__ import annotations

import argparse
import hashlib
from functools import partial
from typing import TYPE_CHECKING, Final

from ..errors import ServerError, UsageError
from .edge import harmless, note, say, show_json
from .places import home_of, server_of
from .progress import bar

if TYPE_CHECKING:
    from ...host.api import Host
    from ..paths import Home
    from ..serve.contest import Answers, Score, Winner
    from ..serve.ollama import Server
    from ..serve.speakers import Voice

__all__ = ["compare"]

#: Below this many cells two answers stand below each other.
NARROW: Final = 76


def compare(host: Host, given: argparse.Namespace) -> int:
    """Ask both models the same questions, show the answers, and keep what the user finds."""
    from ..serve.contest import answers, questions, score

    if given.a == given.b:
        raise UsageError("Name two different models to compare.")
    if given.limit < 1:
        raise UsageError("--limit takes a number of tokens from 1 up.")
    home = home_of(host)
    with server_of(host) as server:
        a, b = _voices(host, home, server, given)
        asked = questions(home, given.prompts, in_form=a.in_form or b.in_form)
        with bar(host) as tell:
            speakers = [
                voice.speaker(given.limit, partial(tell, "answers" if given.blind else voice.name)) for voice in (a, b)
            ]
            found = answers(asked, *speakers)
    if host.json:
        shown = [{"question": one.question.text, "a": one.a, "b": one.b} for one in found]
        show_json(host, {"a": a.name, "b": b.name, "answers": shown, "score": score(home, a.name, b.name).model_dump()})
        return 0
    _judge(host, home, a.name, b.name, found, blind=given.blind)
    _standing(host, score(home, a.name, b.name))
    return 0


def _voices(host: Host, home: Home, server: Server, given: argparse.Namespace) -> tuple[Voice, Voice]:
    from ..serve.speakers import find_voice

    away = ""
    try:
        server.check()
    except ServerError as error:
        away = error.sentence
    there = None if away else server
    a, b = find_voice(home, there, given.a, given.b), find_voice(home, there, given.b, given.a)
    if not host.json:
        if away:
            note(host, f"{away} The training engine answers instead.")
        note(host, f"{a.name} through {a.through}, {b.name} through {b.through}; the likeliest answer of each.")
    return a, b


def _judge(host: Host, home: Home, a: str, b: str, found: list[Answers], *, blind: bool) -> None:
    """Show question by question and ask, until the user has enough; where nobody answers, only show them."""
    from ..serve.contest import CRITERIA, keep, read_pick

    letters = ", ".join(f"{letter} {name}" for letter, name in CRITERIA.items())
    asking = True
    for number, one in enumerate(found, 1):
        swapped = blind and _turned(one)
        first, second = ((b, one.b), (a, one.a)) if swapped else ((a, one.a), (b, one.b))
        say(host, f"\n{number} of {len(found)}  {one.question.text}", "bold")
        titles = ("1", "2") if blind else (f"1  {first[0]}", f"2  {second[0]}")
        _side_by_side(host, titles, (first[1], second[1]))
        pick = None
        while asking and pick is None:
            line = host.read_line(f"Better: 1, 2 or = (and why: {letters}; Enter skips, q ends):")
            if line is None:
                asking = False
                break
            if line.lower() in ("q", "quit"):
                return
            if not line:
                break
            pick = read_pick(line)
            if pick is None:
                note(host, "Type 1, 2 or =, and letters for why, such as: 2 c d")
        if pick is None:
            continue
        which, why = pick
        winner: Winner = "tie" if which == "=" else "a" if (which == "1") != swapped else "b"
        keep(home, a, b, one.question, winner, why, blind=blind)
        if blind:
            note(host, f"1 was {first[0]}, 2 was {second[0]}.")


def _turned(one: Answers) -> bool:
    """Which answer comes first, by the question alone: nobody can learn whose place is whose."""
    return hashlib.sha256(one.question.text.encode()).digest()[0] % 2 == 1


def _side_by_side(host: Host, titles: tuple[str, str], texts: tuple[str, str]) -> None:
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    said = [Text(harmless(text) or "(nothing was said)", "" if text else "dim") for text in texts]
    if host.console.width < NARROW:
        for title, text in zip(titles, said, strict=True):
            say(host, title, "dim")
            host.console.print(Padding(text, (0, 0, 1, 0)))
        return
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0), header_style="dim", expand=True)
    for title in titles:
        table.add_column(Text(title), ratio=1, overflow="fold")
    table.add_row(*said)
    host.console.print(table)


def _standing(host: Host, score: Score) -> None:
    judged = score.wins_a + score.wins_b + score.ties
    if not judged:
        return
    width = max(len(score.a), len(score.b))
    say(host, f"\nSo far, over {judged} {'answer' if judged == 1 else 'answers'}", "bold")
    for name, wins, side in ((score.a, score.wins_a, 0), (score.b, score.wins_b, 1)):
        why = "  ".join(f"{criterion} {counts[side]}" for criterion, counts in score.criteria.items() if counts[side])
        say(host, f"{name:{width}}  {wins:3} better   {why}".rstrip())
    if score.ties:
        note(host, f"{'':{width}}  {score.ties:3} alike")
