"""The forms of secrets that are known by their own look: each behind a literal that begins it, or lies in it.

Names follow what services publish and what gitleaks' rules list. Add a form as one line; the bench says what it costs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

__all__ = ["FORMS", "HARMLESS", "Form"]


@dataclass(frozen=True)
class Form:
    """Secrets of one `kind`: `regex` is tried where `literal` stands; or up to `back` characters before it, where
    `ahead` fits the literal and what follows.

    Group `value` is the secret, else the whole match. `bare`: may begin in the middle of a word. `folded`: the literal
    is lower case and stands for any case. `open`: has white space in it or is short, so that no long word betrays it.
    """

    kind: str
    literal: str
    source: str
    back: int = 0
    ahead: str = ""
    bare: bool = False
    folded: bool = False
    open: bool = False

    @cached_property
    def regex(self) -> re.Pattern[str]:
        """Compiled when its literal is first seen: a command that meets no secret compiles nothing."""
        return re.compile(self.source, re.IGNORECASE if self.folded else 0)

    @cached_property
    def follows(self) -> re.Pattern[str]:
        """`ahead`, compiled."""
        return re.compile(self.ahead or re.escape(self.literal))


#: Values that only look like a secret: documentation and tests are full of them, and holes in them teach nothing.
HARMLESS: Final = re.compile(
    r"(?i)^[*.x_-]{4,}|x{6}|\*{4}|\.{3}|example|change_?me|placeholder|dummy|redacted|your[-_ ]|0123456789|1234567890"
    r"|abcdefgh|^passw(?:or)?d\d{0,3}$|^my[-_ ]?(?:secret|token|key|password)"
)

_END: Final = r"(?![A-Za-z0-9])"

#: kind, then words of `literals` and the tail after each; `_` ends a tail where another letter or digit would not fit.
_PREFIXED: Final = (
    ("AWS_KEY", "AKIA ASIA ABIA ACCA", r"[A-Z2-7]{16}"),
    ("AWS_KEY", "A3T", r"[A-Z0-9][A-Z2-7]{16}"),
    ("AWS_KEY", "ABSK", r"[A-Za-z0-9+/]{100,280}={0,2}"),
    ("AWS_KEY", "bedrock-api-key-", r"[A-Za-z0-9+/=]{20,2000}"),
    ("GITHUB_TOKEN", "ghp_ gho_ ghu_ ghs_ ghr_", r"[A-Za-z0-9]{36,255}"),
    ("GITHUB_TOKEN", "github_pat_", r"\w{22,255}"),
    (
        "GITLAB_TOKEN",
        "glpat- glrt- gldt- glft- glimt- glagent- gloas- glptt- glsoat- glffct- glcbt-",
        r"[\w.-]{20,320}",
    ),
    ("GITLAB_TOKEN", "GR1348941", r"[\w-]{20}"),
    ("API_KEY", "sk-ant-", r"[\w-]{20,200}"),
    ("API_KEY", "sk-", r"(?!ecdsa-|ssh-|learn)(?=[\w-]{0,60}\d)(?:[a-z0-9]{2,10}-)?[A-Za-z0-9_-]{20,220}"),
    ("API_KEY", "hf_ api_org_", r"[A-Za-z0-9]{30,60}"),
    ("API_KEY", "AIza", r"[\w-]{35}(?![\w-])"),
    ("API_KEY", "GOCSPX-", r"[\w-]{28}(?![\w-])"),
    ("API_KEY", "pplx- gsk_ xai- nvapi-", r"[\w-]{40,100}"),
    ("API_KEY", "AQVN", r"[\w-]{35,38}"),
    ("SLACK_TOKEN", "xoxb- xoxp- xoxa- xoxr- xoxs- xoxo- xoxe- xoxe. xapp-", r"[A-Za-z0-9.-]{10,250}"),
    ("STRIPE_KEY", "sk_live_ sk_test_ sk_prod_ rk_live_ rk_test_ rk_prod_ whsec_", r"[A-Za-z0-9]{10,200}"),
    ("PAYMENT_TOKEN", "sq0atp- sq0csp- EAAA", r"[\w-]{22,60}"),
    ("PAYMENT_TOKEN", "EZAK EZTK", r"[A-Za-z0-9]{54}"),
    ("PAYMENT_TOKEN", "FLWSECK_TEST- FLWPUBK_TEST- FLWSECK- FLWPUBK-", r"[A-Za-z0-9]{12,32}(?:-X)?"),
    ("PAYMENT_TOKEN", "shpat_ shpca_ shppa_ shpss_", r"[A-Fa-f0-9]{32}"),
    ("PAYMENT_TOKEN", "shippo_live_ shippo_test_", r"[A-Fa-f0-9]{40}"),
    ("PAYMENT_TOKEN", "duffel_live_ duffel_test_", r"[\w=-]{43}"),
    ("PACKAGE_TOKEN", "npm_", r"[A-Za-z0-9]{36}"),
    ("PACKAGE_TOKEN", "pypi-AgE", r"[\w-]{50,1000}"),
    ("PACKAGE_TOKEN", "rubygems_", r"[a-f0-9]{48}"),
    ("PACKAGE_TOKEN", "CLOJARS_", r"[A-Za-z0-9]{60}"),
    ("PACKAGE_TOKEN", "dckr_pat_", r"[\w-]{20,60}"),
    ("PACKAGE_TOKEN", "AKCp", r"[A-Za-z0-9]{69}"),
    ("PACKAGE_TOKEN", "cmVmd", r"[A-Za-z0-9]{59}"),
    ("PACKAGE_TOKEN", "oy2", r"[a-z0-9]{43}"),
    ("MAIL_KEY", "SG.", r"[\w-]{16,32}\.[\w.-]{32,64}"),
    ("MAIL_KEY", "xkeysib- xsmtpsib-", r"[a-f0-9]{64}-[A-Za-z0-9]{16}"),
    ("MAIL_KEY", "key- pubkey-", r"[a-f0-9]{32}"),
    ("JWT", "ey", r"[A-Za-z0-9_-]{15,2000}\.ey[\w/+-]{15,8000}(?:\.[\w/+-]{8,2000}={0,2})?"),
    ("JWT", "ZXlK", r"[A-Za-z0-9/+_-]{40,8000}={0,2}"),
    ("CLOUD_TOKEN", "doo_v1_ dop_v1_ dor_v1_", r"[A-Fa-f0-9]{64}"),
    ("CLOUD_TOKEN", "dapi", r"[a-f0-9]{32}(?:-\d)?"),
    ("CLOUD_TOKEN", "fo1_", r"[\w-]{43}"),
    ("CLOUD_TOKEN", "fm1r_ fm1a_ fm2_", r"[A-Za-z0-9+/]{100,2000}={0,3}"),
    ("CLOUD_TOKEN", "HRKU-AA", r"[\w-]{58}"),
    ("CLOUD_TOKEN", "LTAI", r"(?=[A-Za-z]{0,19}\d)[A-Za-z0-9]{20}"),
    ("CLOUD_TOKEN", "pul-", r"[a-f0-9]{40}"),
    ("CLOUD_TOKEN", "tk-us-", r"[\w-]{48}"),
    ("CLOUD_TOKEN", "sha256~", r"[\w-]{43}(?![\w-])"),
    ("CLOUD_TOKEN", "4b1d", r"[A-Za-z0-9]{38}"),
    ("CLOUD_TOKEN", "v1.0-", r"[a-f0-9]{24}-[a-f0-9]{146}"),
    ("CLOUD_TOKEN", "hvs. hvb.", r"[\w-]{24,300}"),
    ("CLOUD_TOKEN", "sl.", r"[\w=-]{130,300}"),
    ("CLOUD_TOKEN", "s.", r"(?=[A-Za-z]{0,23}\d)(?=[a-z0-9]{0,23}[A-Z])[A-Za-z0-9]{24}(?![\w.(])"),
    ("CLOUD_TOKEN", "pscale_tkn_ pscale_oauth_ pscale_pw_", r"[\w=.-]{32,64}"),
    ("CLOUD_TOKEN", "t1.", r"[\w-]{20,300}={0,2}\.[\w-]{86}={0,2}"),
    ("SERVICE_TOKEN", "glc_", r"[A-Za-z0-9+/]{32,400}={0,3}"),
    ("SERVICE_TOKEN", "glsa_", r"[A-Za-z0-9]{32}_[A-Fa-f0-9]{8}"),
    ("SERVICE_TOKEN", "eyJrIjoi", r"[A-Za-z0-9]{70,400}={0,3}"),
    ("SERVICE_TOKEN", "sntrys_", r"[A-Za-z0-9+/]{40,600}={0,2}_[A-Za-z0-9+/]{43}"),
    ("SERVICE_TOKEN", "sntryu_", r"[a-f0-9]{64}"),
    ("SERVICE_TOKEN", "dp.pt. dp.st. dp.ct. dp.sa. dp.scim. dp.audit.", r"[\w.-]{40,80}"),
    ("SERVICE_TOKEN", "dt0c01.", r"[A-Za-z0-9]{24}\.[A-Za-z0-9]{64}"),
    ("SERVICE_TOKEN", "A3-", r"[A-Z0-9]{6}-(?:[A-Z0-9]{11}|[A-Z0-9]{6}-[A-Z0-9]{5})(?:-[A-Z0-9]{5}){3}"),
    ("SERVICE_TOKEN", "ops_eyJ", r"[A-Za-z0-9+/]{200,4000}={0,3}"),
    ("SERVICE_TOKEN", "API-", r"(?=[A-Z]{0,25}\d)[A-Z0-9]{26}"),
    ("SERVICE_TOKEN", "ico-", r"(?=[A-Za-z]{0,31}\d)[A-Za-z0-9]{32}"),
    ("SERVICE_TOKEN", "p8e-", r"[A-Za-z0-9]{32}"),
    ("SERVICE_TOKEN", "s-s4t2ud- s-s4t2af-", r"[A-Fa-f0-9]{64}"),
    ("SERVICE_TOKEN", "pat", r"[A-Za-z0-9]{14}\.[a-f0-9]{64}"),
    ("SERVICE_TOKEN", "pat. sat.", r"[\w-]{22}\.[A-Za-z0-9]{24}\.[A-Za-z0-9]{20}"),
    ("SERVICE_TOKEN", "EAAM EAAC", r"[A-Za-z0-9]{100,400}"),
    ("SERVICE_TOKEN", "fio-u-", r"[\w=-]{64}"),
    ("SERVICE_TOKEN", "sm_aat_ sm_pat_ sm_sat_", r"[A-Za-z0-9]{16}"),
    ("SERVICE_TOKEN", "SK", r"[0-9a-f]{32}"),
    ("SERVICE_TOKEN", "tfp_", r"[\w.=-]{59}"),
    ("SERVICE_TOKEN", "PMAK-", r"[A-Fa-f0-9]{24}-[A-Fa-f0-9]{34}"),
    ("SERVICE_TOKEN", "rdme_", r"[a-z0-9]{70}"),
    ("SERVICE_TOKEN", "NRAK- NRJS- NRII-", r"[\w-]{19,32}"),
    ("SERVICE_TOKEN", "pk. sk.", r"[A-Za-z0-9]{60}\.[A-Za-z0-9]{22}"),
    ("SERVICE_TOKEN", "sgp_", r"(?:(?:[A-Fa-f0-9]{16}|local)_)?[A-Fa-f0-9]{40}"),
    ("SERVICE_TOKEN", "squ_ sqp_ sqa_", r"[A-Za-z0-9]{40}"),
    ("SERVICE_TOKEN", "dnkey-", r"[\w=-]{26}-[\w=-]{52}"),
    ("SERVICE_TOKEN", "lin_api_", r"[A-Za-z0-9]{40}"),
    ("SERVICE_TOKEN", "ntn_", r"\d{11}[A-Za-z0-9]{35}"),
    ("SERVICE_TOKEN", "pnu_", r"[A-Za-z0-9]{36}"),
    ("SERVICE_TOKEN", "A" * 22, r"[A-Za-z0-9%]{60,120}"),
    ("PRIVATE_KEY", "AGE-SECRET-KEY-1", r"[A-Z0-9]{58}"),
)

#: Before a form that is not sought at its beginning; the n of an escaped newline is no part of a word.
_START: Final = r"(?:(?<![\w-])|(?<=\\[nrt]))"
_PEM: Final = r"[A-Z0-9 ]{0,60}PRIVATE KEY(?: BLOCK)?-----"
#: Characters of user names and passwords in addresses.
_PART: Final = r"""[^\s:/@"'<>{}\[\]$\\`]"""

#: The domain of an e-mail address: none that is kept for examples, and no file or version.
_AT: Final = (
    r"@(?!(?:[\w-]{1,63}\.){0,4}example\.)(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.){1,8}"
    r"(?!(?:png|jpe?g|svg|gif|webp|css|js|py|test|example|invalid|localhost|local)\b)[A-Za-z]{2,24}(?![\w-])"
)

#: A user's folder, with letters as JSON may escape them; not the names that stand for any user, or for none.
_USER: Final = (
    r"(?!(?i:user(?:name)?|you|me|foo|bar|name|your-?_?name|someone|runner|test|shared|public|default|all)\b)"
    r"\w(?:[\w.-]|\\u[0-9a-f]{4}){0,63}"
)

#: In order: the first that matches a stretch of text has it, so the typed ones come before the general ones.
_SPECIAL: Final = (
    Form(
        "PRIVATE_KEY",
        "-----BEGIN",
        # Whole, or cut off: then only lines that can be of a key, never the prose behind them.
        # Two markers side by side, with nothing of a key between them, are none.
        rf"-----BEGIN {_PEM}(?=(?:(?!-----END)[\s\S]){{0,400}}?[A-Za-z0-9+/=]{{16}})"
        rf"(?:(?:(?!-----BEGIN)[\s\S]){{1,20000}}?-----END {_PEM}"
        r"|(?:(?:\s|\\[nr]){1,4}[A-Za-z0-9+/=]{16,200}){1,400})",
        bare=True,
        open=True,
    ),
    Form("CLOUD_TOKEN", "Q~", rf"{_START}[\w~.]{{3}}\dQ~[\w~.-]{{31,34}}", back=4, ahead=r"Q~[\w~.-]{31}", bare=True),
    Form("CLOUD_TOKEN", ".atlasv1.", rf"{_START}[A-Za-z0-9]{{14}}\.atlasv1\.[\w=-]{{60,70}}", back=14, bare=True),
    Form("SERVICE_TOKEN", "_mmk", rf"{_START}[A-Za-z0-9]{{6}}_[A-Za-z0-9]{{29}}_mmk", back=36, bare=True),
    Form("SERVICE_TOKEN", "|", r"(?<!\d)\d{15,16}\|[\w-]{27,40}", back=16, ahead=r"\|[\w-]{27}", bare=True),
    Form("SERVICE_TOKEN", "-us", rf"{_START}[a-f0-9]{{32}}-us\d{{1,2}}", back=32, ahead=r"-us\d", bare=True),
    Form(
        "SERVICE_TOKEN",
        ".acc",
        r"(?:scauth|authress|sc|ext)_[a-z0-9]{5,30}\.[a-z0-9]{4,6}\.acc[_-][a-z0-9-]{10,32}\.[\w+/=-]{30,120}",
        back=46,
        ahead=r"\.acc[_-][a-z0-9-]{10}",
        bare=True,
    ),
    Form("BOT_TOKEN", ":A", r"(?<!\d)\d{5,16}:A[\w-]{34}(?![\w-])", back=16, ahead=r":A[\w-]{34}", bare=True),
    Form("SERVICE_TOKEN", "CONTRIBSYS__COM", r"CONTRIBSYS__COM\W{1,4}(?P<value>[a-f0-9]{8}:[a-f0-9]{8})", bare=True),
    Form("WEBHOOK", "hooks.slack.com/", r"[^/\s]{1,40}/(?:services|workflows|triggers)/(?P<value>[\w+/-]{20,200})"),
    Form("WEBHOOK", "webhook.office.com/", r"[^/\s]{1,40}/webhookb2/(?P<value>[\w@/-]{40,300})"),
    Form("WEBHOOK", "discord.com/api/webhooks/", r"[^?#\s]{1,26}?/(?P<value>\d{15,22}/[\w-]{40,100})"),
    Form("WEBHOOK", "discordapp.com/api/webhooks/", r"[^?#\s]{1,30}?/(?P<value>\d{15,22}/[\w-]{40,100})"),
    Form(
        "CREDENTIALS",
        "://",
        rf"://(?P<value>{_PART}{{0,100}}:{_PART}{{1,200}})@(?!(?:[\w-]{{1,63}}\.){{0,4}}example\.)[\w\[]",
        bare=True,
        open=True,
    ),
    Form(
        "CREDENTIALS",
        "curl",
        r"""curl\b[^"'|;]{0,200}?\s(?:-u|--user)(?:=|\s{0,3})\\?["']?(?P<value>[\w.@%+-]{0,60}:[^\s"'`$<>\\]{3,100})""",
        open=True,
    ),
    Form(
        "BEARER",
        "uthorization",
        r"""uthorization\\?["']?\]?\s{0,3}[:=,]\s{0,3}f?\\?["']?(?:[A-Za-z-]{2,12} )?"""
        r"""(?P<value>(?=[A-Za-z.~+/=_-]{0,60}\d)[\w.~+/-]{8,4000}={0,2})(?![\w.~+/(=-])""",
        bare=True,
        folded=True,
        open=True,
    ),
    Form(
        "BEARER",
        "bearer",
        r"bearer\s{1,3}(?P<value>(?=[A-Za-z.~+/=_-]{0,60}\d)[\w.~+/-]{20,4000}={0,2})",
        folded=True,
        open=True,
    ),
    Form(
        "SESSION",
        "session",
        r"session(?:_?id)?\\?[\"']?\s?[=:]\s?\\?[\"']?(?P<value>(?=[a-z]{0,30}\d)[a-z0-9]{26,128})",
        bare=True,
        folded=True,
        open=True,
    ),
    # What a Kubernetes manifest holds, which is only coded, not enciphered.
    Form(
        "SECRET",
        "kind: secret",
        r"kind: secret\b[\s\S]{0,400}?(?:\b|\\n)data:"
        r"(?:(?:\s|\\n){1,9}[\w.-]{1,60}: [^\s\\]{1,9}){0,9}(?:\s|\\n){1,9}[\w.-]{1,60}:"
        r"\s?\\?[\"']?(?P<value>[A-Za-z0-9+/]{10,4000}={0,2})",
        bare=True,
        folded=True,
        open=True,
    ),
    Form(
        "EMAIL",
        "@",
        r"(?<![\w.+/-])(?!git@|noreply@|no-reply@)[A-Za-z0-9][\w.+-]{0,63}" + _AT,
        back=64,
        ahead=_AT,
        bare=True,
        open=True,
    ),
    Form("HOME", "/home/", rf"(?<![\w.~])/home/{_USER}", bare=True, open=True),
    Form("HOME", "/Users/", rf"(?<![\w.~])/Users/{_USER}", bare=True, open=True),
    Form(
        "HOME",
        ":\\",
        rf"(?<!\w)[A-Za-z]:\\{{1,4}}Users\\{{1,4}}{_USER}",
        back=1,
        ahead=r":\\{1,4}Users\\",
        bare=True,
        open=True,
    ),
)  # fmt: skip


def _prefixed() -> Iterator[Form]:
    for kind, literals, tail in _PREFIXED:
        for literal in literals.split():
            yield Form(kind, literal, re.escape(literal) + tail + _END)


FORMS: Final = (_SPECIAL[0], *_prefixed(), *_SPECIAL[1:])
