"""The words and flags of `/model-register`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from ..serve.slots import SLOTS
from .options import Parser

__all__ = ["PARSERS", "VERBS", "overview"]

VERBS: Final = (
    "add", "list", "templates", "check", "compare", "gate", "explain", "promote", "rollback", "history", "retire",
)  # fmt: skip


def overview() -> str:
    """What the bare command says."""
    lines = ["/model-register <run or gguf>: the same as `add`. Each takes --help.", ""]
    return "\n".join(lines + [f"  {verb:10} {PARSERS[verb]().description}" for verb in VERBS])


def _parser(verb: str, description: str) -> Parser:
    return Parser(prog=f"/model-register {verb}", description=description)


def _add_parser() -> Parser:
    parser = _parser("add", "register an exported run, or a GGUF file, under meton-<name>")
    parser.add_argument("source", metavar="RUN|GGUF")
    parser.add_argument("--name", help="name of the model (default: the run's, or the file's)")
    parser.add_argument("--quant", help="which of a run's exports (default: the newest)")
    parser.add_argument("--template", help="Modelfile template (default: the one that the run was trained with)")
    parser.add_argument("--slot", choices=SLOTS, help="then put it into this slot")
    parser.add_argument("--yes", action="store_true", help="put it into the slot without asking")
    _force(parser)
    return parser


def _check_parser() -> Parser:
    parser = _parser("check", "ask base and tuned model held-out questions in Meton's own form, and compare")
    parser.add_argument("model", nargs="?", metavar="RUN|NAME:TAG", help="which model (default: the newest run's)")
    parser.add_argument("--prompts", type=int, default=40, metavar="N", help="at most so many (default: 40)")
    parser.add_argument("--limit", type=int, default=256, metavar="N", help="tokens an answer may have (default: 256)")
    parser.add_argument("--yes", action="store_true", help="without asking, however long it takes")
    return parser


def _compare_parser() -> Parser:
    parser = _parser("compare", "answers of two models side by side, and which of them you find better")
    parser.add_argument("a", metavar="A", help="a model of the server, a run, a registered model, or base")
    parser.add_argument("b", metavar="B", help="the other")
    parser.add_argument(
        "--prompts", default="held-out", metavar='FILE|held-out|"last N"', help="what to ask (default: held-out)"
    )
    parser.add_argument("--blind", action="store_true", help="without names, in an order that tells nothing")
    parser.add_argument("--limit", type=int, default=256, metavar="N", help="tokens an answer may have (default: 256)")
    return parser


def _gate_parser() -> Parser:
    parser = _parser("gate", "measure whether a tuned model is better than its base and than a slot's model")
    parser.add_argument("model", nargs="?", metavar="RUN|NAME:TAG", help="which model (default: the newest run's)")
    parser.add_argument("--slot", choices=SLOTS, help="compare with the model that holds this slot, too")
    return parser


def _explain_parser() -> Parser:
    parser = _parser("explain", "say what is wrong with a tuned model or its server, by which numbers, and what to do")
    parser.add_argument("model", nargs="?", metavar="RUN|NAME:TAG", help="which model (default: the newest run's)")
    parser.add_argument("--questions", type=int, default=6, metavar="N", help="ask at most so many (default: 6)")
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="of the engine (default: what is faster)")
    return parser


def _promote_parser() -> Parser:
    parser = _parser("promote", "put a registered model into a slot, after asking")
    parser.add_argument("model", metavar="NAME:TAG")
    parser.add_argument("--slot", choices=SLOTS, default=SLOTS[0], help=f"which slot (default: {SLOTS[0]})")
    parser.add_argument("--why", default="promoted", help="a word for the history")
    parser.add_argument("--yes", action="store_true", help="without asking")
    _force(parser)
    return parser


def _force(parser: Parser) -> None:
    parser.add_argument("--force", action="store_true", help="also where it does not pass the gate, after asking twice")


def _rollback_parser() -> Parser:
    parser = _parser("rollback", "give a slot back what it held before")
    parser.add_argument("--slot", choices=SLOTS, default=SLOTS[0], help=f"which slot (default: {SLOTS[0]})")
    parser.add_argument("--steps", type=int, default=1, metavar="N", help="how many swaps back (default: 1)")
    return parser


def _templates_parser() -> Parser:
    parser = _parser("templates", "show the Modelfile templates, or one of them whole")
    parser.add_argument("template", nargs="?")
    return parser


def _retire_parser() -> Parser:
    parser = _parser("retire", "remove registered models that nothing needs, after asking")
    parser.add_argument("models", nargs="*", metavar="NAME:TAG", help="which (default: all that nothing needs)")
    parser.add_argument("--files", action="store_true", help="delete their exported GGUF files too")
    parser.add_argument("--yes", action="store_true", help="without asking; the files stay unless --files")
    return parser


PARSERS: Final[dict[str, Callable[[], Parser]]] = {
    "add": _add_parser,
    "list": lambda: _parser("list", "show the registered models"),
    "templates": _templates_parser,
    "check": _check_parser,
    "compare": _compare_parser,
    "gate": _gate_parser,
    "explain": _explain_parser,
    "promote": _promote_parser,
    "rollback": _rollback_parser,
    "history": lambda: _parser("history", "show every swap of a slot"),
    "retire": _retire_parser,
}
