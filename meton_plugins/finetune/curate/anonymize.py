"""Names of people, machines and projects, replaced for a dataset that is given away. Best effort, to be reviewed.

Secrets are taken out before, when texts enter the library. Here goes what is harmless at home and tells too much
elsewhere. The values are for the eyes of the user who reviews them, and are stored nowhere.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from .spans import Hit, Taken, begins, unescaped

__all__ = ["KINDS", "Replacement", "anonymize"]

KINDS: Final = ("PROJECT", "URL", "MAIL", "NAME", "USER", "HOST", "IP", "PHONE")

#: Users and machines that everybody has.
_COMMON: Final = frozenset(
    (
        "root", "user", "username", "admin", "administrator", "ubuntu", "debian", "runner", "test", "guest", "git",
        "www-data", "nobody", "home", "app", "dev", "docker", "node", "vagrant", "pi", "ec2-user", "postgres", "mysql",
        "me", "you", "name", "foo", "bar", "shared", "public", "default", "system", "jovyan", "localhost", "host",
        "hostname", "server", "client", "db", "web", "api", "redis", "nginx", "example", "github", "gitlab",
    )
)  # fmt: skip
#: Endings of machines that no public name server knows.
_PRIVATE: Final = r"(?:local|lan|internal|intranet|corp|home|private|localdomain|home\.arpa)"
_ENDINGS: Final = (".local", ".lan", ".int", ".corp", ".home", ".private")
_HOST: Final = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,62})(?:\.[A-Za-z0-9-]{1,63}){0,6}"

_MAIL: Final = re.compile(
    r"(?<![\w.+/-])(?!git@|no-?reply@)[A-Za-z0-9][\w.+-]{0,63}@(?!(?:[\w-]{1,63}\.){0,4}example\.)"
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}[A-Za-z]{2,24}(?![\w-])"
)
_NAME: Final = re.compile(
    r"(?<!\w)(?P<value>[^\W\d_a-z][\w'-]{1,30}(?: (?:(?:van|von|de|der|den|di|da|del|la|le|al|bin) ){0,2}"
    r"[^\W\d_a-z][\w.'-]{0,30}){1,3}) ?<(?=<[A-Z]+_\d|[\w.+-]+@)"
)
_USER: Final = re.compile(
    r"(?:/(?:home|Users|media|var/mail|var/spool/mail)/|[A-Za-z]:\\{1,4}Users\\{1,4}|\b(?:USER|LOGNAME|USERNAME)=)"
    r"(?P<value>\w[\w.-]{0,62}\w)"
)
#: `mira@thinkpad:~/x$`, and what ssh and its like are given.
_LOGIN: Final = re.compile(
    rf"(?:(?m:^)\W{{0,3}}|\b(?:ssh|scp|sftp|rsync)\s[^\n@]{{0,80}}?\s?)(?P<user>[a-z_][\w-]{{1,31}})@(?P<host>{_HOST})(?=[\s:]|\Z)"
)
_MACHINE: Final = re.compile(
    rf"(?<![\w.@-])(?P<value>(?:[A-Za-z0-9-]{{1,63}}\.){{1,5}}{_PRIVATE})(?![\w-]|\.\w)|\bHOSTNAME=(?P<named>{_HOST})"
)
_URL: Final = re.compile(
    rf"\b[a-z][a-z0-9+]{{1,15}}://(?:[^\s/@\"'<>]{{1,100}}@)?(?P<host>\[[0-9a-fA-F:.]{{2,45}}\]|{_HOST})(?::\d{{1,5}})?(?:/[^\s\"'<>`)\\]*)?"
)
_IPV4: Final = re.compile(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w]|\.\d)")
_IPV6: Final = re.compile(r"(?<![\w:.])[0-9a-fA-F]{1,4}:(?=[0-9a-fA-F]{0,4}:)[0-9a-fA-F:]{1,34}(?![\w:])")
_PHONE: Final = re.compile(
    r"(?<![\w.+-])(?:\+[1-9]\d{0,2}(?:[ ./-]?\(?\d{1,5}\)?){2,6}|\(0?\d{2,4}\) ?\d{3,4}[ -]\d{3,5}|\d{3}-\d{3}-\d{4}"
    r"|(?<=tel:)\d{6,15})(?!\w|[.-]\d)"
)  # fmt: skip
_PLACEHOLDER: Final = re.compile(r"<([A-Z][A-Z_]*)_(\d+)>")


@dataclass(frozen=True)
class Replacement:
    """One distinct value, what stands in its place everywhere, and how often it did."""

    kind: str
    value: str
    placeholder: str
    count: int


def anonymize(chats: Sequence[Sequence[str]], words: Sequence[str] = ()) -> tuple[list[list[str]], list[Replacement]]:
    """The texts of all chats with each name replaced, the same name by the same placeholder; and the replacements.

    `words` are names of projects: they are replaced in capitals or not, also as parts of names in code.
    """
    hits = [[_hits(text, words) for text in chat] for chat in chats]
    known = _known(chats, hits)
    numbers: Counter[str] = Counter()
    for chat in chats:
        for text in chat:
            for match in _PLACEHOLDER.finditer(text):
                numbers[match[1]] = max(numbers[match[1]], int(match[2]))
    seen: dict[tuple[str, str], str] = {}
    counts: Counter[tuple[str, str]] = Counter()
    first: dict[tuple[str, str], str] = {}
    cleaned = []
    for chat, found in zip(chats, hits, strict=True):
        texts = []
        for text, own in zip(chat, found, strict=True):
            parts, done = [], 0
            for start, end, kind in _with_known(text, own, known):
                value = (kind, text[start:end].casefold())
                if value not in seen:
                    numbers[kind] += 1
                    seen[value] = f"{kind}_{numbers[kind]}"
                    first[value] = text[start:end]
                counts[value] += 1
                parts += [text[done:start], _placed(text, start, end, seen[value])]
                done = end
            texts.append("".join([*parts, text[done:]]))
        cleaned.append(texts)
    made = [Replacement(key[0], first[key], f"<{name}>", counts[key]) for key, name in seen.items()]
    return cleaned, sorted(made, key=lambda each: (KINDS.index(each.kind), -each.count, each.value))


def _hits(text: str, words: Sequence[str]) -> list[Hit]:
    taken = Taken()
    for start, end, kind in _found(text, words):
        taken.add(*unescaped(text, start, end), kind)
    return taken.hits


def _found(text: str, words: Sequence[str]) -> Iterator[Hit]:
    for word in words:
        for match in re.finditer(re.escape(word), text, re.IGNORECASE):
            yield (*match.span(), "PROJECT")
    for match in _where(_URL, text, "://"):
        if _is_private(match["host"].strip("[]")):
            yield (*match.span(), "URL")
    for match in _where(_LOGIN, text, "@"):
        if match["user"] not in _COMMON:
            yield (*match.span("user"), "USER")
        if match["host"] not in _COMMON and ("." not in match["host"] or _is_private(match["host"])):
            yield (*match.span("host"), "HOST")
    for match in _where(_MAIL, text, "@"):
        yield (*match.span(), "MAIL")
    for match in _where(_NAME, text, "<"):
        yield (*match.span("value"), "NAME")
    for match in _where(_USER, text, "/home/", "/Users/", "\\Users\\", "/media/", "/mail/", "USER=", "NAME="):
        if match["value"].lower() not in _COMMON:
            yield (*match.span("value"), "USER")
    for match in _where(_MACHINE, text, *_ENDINGS, "HOSTNAME="):
        group = "value" if match["value"] else "named"
        if match[group].lower() not in _COMMON and (
            group == "named" or _is_machine(match[group], text[match.end() :][:2])
        ):
            yield (*match.span(group), "HOST")
    for pattern in (_IPV4, _IPV6):
        for match in _where(pattern, text, ".", ":"):
            if _is_address(match[0]):
                yield (*match.span(), "IP")
    for match in _PHONE.finditer(text):
        if sum(map(str.isdigit, match[0])) >= 8:
            yield (*match.span(), "PHONE")


def _where(pattern: re.Pattern[str], text: str, *literals: str) -> Iterator[re.Match[str]]:
    """The matches of a pattern that needs one of `literals`: to look for those first is many times quicker."""
    return pattern.finditer(text) if any(literal in text for literal in literals) else iter(())


def _is_machine(name: str, after: str) -> bool:
    """Whether a dotted name is a machine's, not an attribute in code: `threading.local`, `self.home`."""
    first, last = name.lower().split(".")[0], name.lower().split(".")[-1]
    if after[:1] in ("(", "[", "=") or first in ("self", "cls", "threading", "gevent"):
        return False
    return last not in ("home", "private", "internal") or "-" in name or any(map(str.isdigit, name + after[1:]))


def _is_private(host: str) -> bool:
    """Whether a host is one's own: an address, a bare name, or an ending that only a house or a firm knows."""
    name = host.lower()
    if name in _COMMON or name == "localhost" or _PLACEHOLDER.match(host):
        return False
    if "." not in name and ":" not in name:
        return True
    return _is_address(name) or re.search(rf"\.{_PRIVATE}$", name) is not None


def _is_address(text: str) -> bool:
    """Whether it is an IP address that says where somebody is: not this machine, not one kept for examples."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    if address.version == 6 and len(text.split(":")[0]) < 4 and sum(map(bool, text.split(":"))) < 5:
        return False  # slices and steps look so
    if address.is_loopback or address.is_unspecified or address.is_multicast or text.startswith("255."):
        return False
    return not any(address in network for network in _EXAMPLES if network.version == address.version)


_EXAMPLES: Final = tuple(
    map(ipaddress.ip_network, ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32"))
)


def _known(chats: Sequence[Sequence[str]], hits: Sequence[Sequence[Sequence[Hit]]]) -> re.Pattern[str] | None:
    """People and machines that were found somewhere, to be found everywhere; longest first."""
    names = {
        text[start:end]: kind
        for chat, found in zip(chats, hits, strict=True)
        for text, own in zip(chat, found, strict=True)
        for start, end, kind in own
        if kind in ("USER", "HOST", "NAME") and end - start >= 3
    }
    if not names:
        return None
    groups: dict[str, list[str]] = {}
    for name in sorted(names, key=len, reverse=True):
        groups.setdefault(names[name], []).append(re.escape(name))
    alternatives = "|".join(f"(?P<{kind}>{'|'.join(found)})" for kind, found in groups.items())
    return re.compile(rf"(?:(?<![A-Za-z0-9])|(?<=\\[nrt]))(?:{alternatives})(?![A-Za-z0-9])", re.IGNORECASE)


def _with_known(text: str, own: list[Hit], known: re.Pattern[str] | None) -> list[Hit]:
    if known is None:
        return own
    taken = Taken(own)
    for match in known.finditer(text):
        taken.add(*match.span(), str(match.lastgroup))
    return taken.hits


def _placed(text: str, start: int, end: int, name: str) -> str:
    """In brackets; without them inside of a name in code, which would be none with them."""
    after = text[end : end + 1]
    return f"<{name}>" if begins(text, start) and not (after.isalnum() or after == "_") else name
