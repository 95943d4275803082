"""Secrets to plant: the forms that gitleaks' published rules name, as our own generators of values.

Every rule of `config/gitleaks.toml` (github.com/gitleaks/gitleaks, commit b58d3f1, 221 rules that look at text) has one
line: its id, `=` where the rule wants a name and an operator before the value, and the value's shape. The list was
written from the rules alone, before anything was measured. The ways to plant a named value are those of gitleaks' own
tests (`GenerateSampleSecrets` in cmd/generate/config/utils/generate.go), the name being the rule's id.

Nothing here is a secret: each value is made when it is needed, from a seed.
"""

from __future__ import annotations

import json
import random
import re
import string
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

__all__ = ["RULES", "SETTINGS", "Planted", "left_over", "planted"]

SETTINGS: Final = ("prose", "code", "json")

_LOWER, _DIGITS = string.ascii_lowercase, string.digits
_ALL: Final = string.ascii_letters + _DIGITS
#: `{h32}` in a shape is 32 characters of the class `h`.
_CLASSES: Final = {
    "h": "0123456789abcdef", "H": "0123456789ABCDEF", "g": "abcdefgh0123456789", "d": _DIGITS,
    "l": string.ascii_letters,
    "a": _LOWER + _DIGITS, "A": _ALL, "U": string.ascii_uppercase + _DIGITS, "T": string.ascii_uppercase + "234567",
    "w": _ALL + "_-", "x": _LOWER + _DIGITS + "_-", "b": _ALL + "+/", "q": "QPZRY9X8GF2TVDW0S3JN54KHCE6MUA7L",
}  # fmt: skip

_SHAPES: Final = """
1password-secret-key A3-{U6}-{U11}-{U5}-{U5}-{U5}
1password-service-account-token ops_eyJ{b300}
adafruit-api-key = {x32}
adobe-client-id = {h32}
adobe-client-secret p8e-{a32}
age-secret-key AGE-SECRET-KEY-1{q58}
airtable-api-key = {a17}
airtable-personnal-access-token pat{A14}.{h64}
algolia-api-key = {a32}
alibaba-access-key-id LTAI{a20}
alibaba-secret-key = {a30}
anthropic-admin-api-key sk-ant-admin01-{w93}AA
anthropic-api-key sk-ant-api03-{w93}AA
artifactory-api-key AKCp{A69}
artifactory-reference-token cmVmd{A59}
asana-client-id = {d16}
asana-client-secret = {a32}
atlassian-api-token = {a20}{h4}
authress-service-client-access-key sc_{a12}.{a5}.acc-{a16}.{a60}
aws-access-token AKIA{T16}
aws-amazon-bedrock-api-key-long-lived ABSK{b120}
aws-amazon-bedrock-api-key-short-lived bedrock-api-key-YmVkcm9jay5hbWF6b25hd3MuY29t{b60}
azure-ad-client-secret {A3}8Q~{w34}
beamer-api-token = b_{x44}
bitbucket-client-id = {a32}
bitbucket-client-secret = {x64}
bittrex-access-key = {a32}
bittrex-secret-key = {a32}
cisco-meraki-api-key = {h40}
clickhouse-cloud-api-secret-key 4b1d{A38}
clojars-api-token CLOJARS_{a60}
cloudflare-api-key = {x40}
cloudflare-global-api-key = {h37}
cloudflare-origin-ca-key v1.0-{h24}-{h146}
codecov-access-token = {a32}
cohere-api-token = {A40}
coinbase-access-token = {x64}
confluent-access-token = {a16}
confluent-secret-key = {a64}
contentful-delivery-api-token = {x43}
curl-auth-header curl -X POST -H "Authorization: Token «{A24}»" https://api.harbor-team.net/v1/jobs
curl-auth-user curl -u harbor:«{A14}» https://api.harbor-team.net/v1/jobs
databricks-api-token dapi{h32}
datadog-access-token = {a40}
defined-networking-api-token = dnkey-{x26}-{x52}
digitalocean-access-token doo_v1_{h64}
digitalocean-pat dop_v1_{h64}
digitalocean-refresh-token dor_v1_{h64}
discord-api-token = {h64}
discord-client-id = {d18}
discord-client-secret = {x32}
doppler-api-token dp.pt.{a43}
droneci-access-token = {a32}
dropbox-api-token = {a15}
dropbox-long-lived-api-token = {a11}AAAAAAAAAA{x43}
dropbox-short-lived-api-token = sl.{x135}
duffel-api-token duffel_live_{x43}
dynatrace-api-token dt0c01.{U24}.{U64}
easypost-api-token EZAK{a54}
easypost-test-api-token EZTK{a54}
etsy-access-token = {a24}
facebook-access-token {d15}|{x30}
facebook-page-access-token EAAM{A120}
facebook-secret = {h32}
fastly-api-token = {x32}
finicity-api-token = {h32}
finicity-client-secret = {a20}
finnhub-access-token = {a20}
flickr-access-token = {a32}
flutterwave-encryption-key FLWSECK_TEST-{g12}
flutterwave-public-key FLWPUBK_TEST-{g32}-X
flutterwave-secret-key FLWSECK_TEST-{g32}-X
flyio-access-token fo1_{w43}
frameio-api-token fio-u-{x64}
freemius-secret-key 'secret_key' => '«sk_{A29}»'
freshbooks-access-token = {a64}
gcp-api-key AIza{w35}
generic-api-key = {A32}
github-app-token ghs_{A36}
github-fine-grained-pat github_pat_{A82}
github-oauth gho_{A36}
github-pat ghp_{A36}
github-refresh-token ghr_{A36}
gitlab-cicd-job-token glcbt-{A4}_{w20}
gitlab-deploy-token gldt-{w20}
gitlab-feature-flag-client-token glffct-{w20}
gitlab-feed-token glft-{w20}
gitlab-incoming-mail-token glimt-{w25}
gitlab-kubernetes-agent-token glagent-{w50}
gitlab-oauth-app-secret gloas-{w64}
gitlab-pat glpat-{w20}
gitlab-pat-routable glpat-{w27}.{a2}{a7}
gitlab-ptt glptt-{h40}
gitlab-rrt GR1348941{w20}
gitlab-runner-authentication-token glrt-{w20}
gitlab-runner-authentication-token-routable glrt-t1_{w27}.{a2}{a7}
gitlab-scim-token glsoat-{w20}
gitlab-session-cookie _gitlab_session=«{a32}»
gitter-access-token = {x40}
gocardless-api-token = live_{x40}
grafana-api-key eyJrIjoi{A100}
grafana-cloud-api-token glc_{b80}
grafana-service-account-token glsa_{A32}_{h8}
harness-api-key pat.{w22}.{A24}.{A20}
hashicorp-tf-api-token {a14}.atlasv1.{x64}
hashicorp-tf-password administrator_login_password = "«{x16}»"
heroku-api-key = {u}
heroku-api-key-v2 HRKU-AA{w58}
hubspot-api-key = {V}
huggingface-access-token hf_{l34}
huggingface-organization-api-token api_org_{l34}
infracost-api-token ico-{A32}
intercom-api-key = {x60}
intra42-client-secret s-s4t2ud-{h64}
jfrog-api-key = {a73}
jfrog-identity-token = {a64}
jwt ey{A20}.ey{A40}.{w43}
jwt-base64 ZXlKaGJHY2lPaU{A80}
kraken-access-token = {b86}
kubernetes-secret-yaml "apiVersion: v1\\nkind: Secret\\nmetadata:\\n  name: harbor\\ndata:\\n  mapping: «{b40}»"
kucoin-access-token = {h24}
kucoin-secret-key = {u}
launchdarkly-access-token = {x40}
linear-api-key lin_api_{A40}
linear-client-secret = {h32}
linkedin-client-id = {a14}
linkedin-client-secret = {a16}
lob-api-key = live_{h35}
lob-pub-api-key = live_pub_{h31}
looker-client-id = {a20}
looker-client-secret = {a24}
mailchimp-api-key = {h32}-us12
mailgun-private-api-token = key-{h32}
mailgun-pub-key = pubkey-{h32}
mailgun-signing-key = {g32}-{g8}-{g8}
mapbox-api-token = pk.{a60}.{a22}
mattermost-access-token = {a26}
maxmind-license-key {A6}_{A29}_mmk
messagebird-api-token = {a25}
messagebird-client-id = {u}
microsoft-teams-webhook https://harbor.webhook.office.com/webhookb2/«{u}@{u}/IncomingWebhook/{a32}/{u}»
netlify-access-token = {x44}
new-relic-browser-api-token = NRJS-{h19}
new-relic-insert-key = NRII-{x32}
new-relic-user-api-id = {a64}
new-relic-user-api-key = NRAK-{U27}
notion-api-token ntn_{d11}{A35}
npm-access-token npm_{A36}
nuget-config-password <add key="Password" value="«{A16}»" />
nytimes-access-token = {x32}
octopus-deploy-api-key API-{U26}
okta-access-token = 00{w40}
openai-api-key sk-proj-{w74}T3BlbkFJ{w74}
openshift-user-token sha256~{w43}
perplexity-api-key pplx-{A48}
plaid-api-token = access-sandbox-{u}
plaid-client-id = {a24}
plaid-secret-key = {a30}
planetscale-api-token pscale_tkn_{w43}
planetscale-oauth-token pscale_oauth_{w43}
planetscale-password pscale_pw_{w43}
postman-api-token PMAK-{h24}-{h34}
prefect-api-token pnu_{A36}
private-key "-----BEGIN RSA PRIVATE KEY-----\\n«{b64}\\n{b64}\\n{b64}»\\n-----END RSA PRIVATE KEY-----"
privateai-api-token = {a32}
pulumi-api-token pul-{h40}
pypi-upload-token pypi-AgEIcHlwaS5vcmc{w120}
rapidapi-access-token = {x50}
readme-api-token rdme_{a70}
rubygems-api-token rubygems_{h48}
scalingo-api-token tk-us-{w48}
sendbird-access-id = {u}
sendbird-access-token = {h40}
sendgrid-api-token SG.{w22}.{w43}
sendinblue-api-token xkeysib-{h64}-{A16}
sentry-access-token = {h64}
sentry-org-token sntrys_eyJpYXQiO{A60}LCJyZWdpb25fdXJs{A60}=_{b43}
sentry-user-token sntryu_{h64}
settlemint-application-access-token sm_aat_{A16}
settlemint-personal-access-token sm_pat_{A16}
settlemint-service-access-token sm_sat_{A16}
shippo-api-token shippo_live_{h40}
shopify-access-token shpat_{h32}
shopify-custom-access-token shpca_{h32}
shopify-private-app-access-token shppa_{h32}
shopify-shared-secret shpss_{h32}
sidekiq-secret BUNDLE_ENTERPRISE__CONTRIBSYS__COM=«{h8}:{h8}»
sidekiq-sensitive-url https://«{h8}:{h8}»@gems.contribsys.com/
slack-app-token xapp-1-{U11}-{d13}-{h64}
slack-bot-token xoxb-{d12}-{d12}-{A24}
slack-config-access-token xoxe.xoxp-1-{U166}
slack-config-refresh-token xoxe-1-{U146}
slack-legacy-bot-token xoxb-{d12}-{A24}
slack-legacy-token xoxs-{d10}-{d10}-{d10}-{h10}
slack-legacy-workspace-token xoxa-2-{A40}
slack-user-token xoxp-{d12}-{d12}-{d12}-{A32}
slack-webhook-url https://hooks.slack.com/services/«{A44}»
snyk-api-token = {u}
sonar-api-token = squ_{a40}
sourcegraph-access-token sgp_{h40}
square-access-token sq0atp-{w22}
squarespace-access-token = {u}
stripe-access-token sk_live_{A30}
sumologic-access-id = su{A12}
sumologic-access-token = {A64}
telegram-bot-api-token = {d9}:A{w34}
travisci-access-token = {a22}
twilio-api-key SK{h32}
twitch-api-token = {a30}
twitter-access-secret = {a45}
twitter-access-token = {d19}-{A30}
twitter-api-key = {a25}
twitter-api-secret = {a50}
twitter-bearer-token = AAAAAAAAAAAAAAAAAAAAAA{A90}
typeform-api-token = tfp_{x59}
vault-batch-token hvb.{w150}
vault-service-token hvs.{w95}
yandex-access-token = t1.{A60}.{w86}
yandex-api-key = AQVN{w36}
yandex-aws-access-token = YC{w38}
zendesk-secret-key = {a40}
"""


@dataclass(frozen=True)
class Rule:
    """One rule of gitleaks: how its value looks, and whether a name must stand before it."""

    id: str
    shape: str
    named: bool


def _rules() -> Iterator[Rule]:
    for line in _SHAPES.strip().splitlines():
        name, _, shape = line.partition(" ")
        if shape.startswith('"'):
            shape = json.loads(shape)
        yield Rule(name, shape.removeprefix("= "), shape.startswith("= "))


RULES: Final = tuple(_rules())


@dataclass(frozen=True)
class Planted:
    """A text with one secret in it, as it stands there."""

    rule: str
    setting: str
    text: str
    secret: str


#: From `GenerateSampleSecrets`: n is the name with underscores, C in camel case, N in capitals.
_NAMED_CODE: Final = (
    '{C}="{s}"', '{C} = "{s}"', "{C}={s}", "{C} = {s}", "<{C}>\n    {s}\n</{C}>", "{n}: {s}", "{n}: '{s}'",
    '{n}: "{s}"', 'string {C} = "{s}";', 'var {C} string = "{s}"', '{C} := "{s}"', "{C} := `{s}`",
    'String {C} = "{s}";', 'var {C} = "{s}"', '${C} .= "{s}"', "{C} = '{s}'", 'System.setProperty("{N}", "{s}")',
    '  "{C}" => "{s}"', '{N} := "{s}"', '{N} ::= "{s}"', '{N} :::= "{s}"', '{N} ?= "{s}"',
    # Ours, of what chats hold.
    "export {N}={s}", 'os.environ["{N}"] = "{s}"', 'client = Client({n}="{s}")', '{n}: str = "{s}"',
)  # fmt: skip
_NAMED_PROSE: Final = (
    "We set the {w} to {s} last week, and since then it fails.", "The {w} is {s}, I hope that helps.",
    "Here is what I use, {w}: {s}", "My {w} is `{s}` and the request says 401.", "I put {N}={s} into my shell.",
)  # fmt: skip
_LONE_CODE: Final = (
    'client = Client("{s}")', "# was {s} before", "run --auth {s}", "url = f'https://host/?k={s}&page=1'",
    "x = '{s}'", 'values = ["{s}", 1]', 'print("{s}")',
)  # fmt: skip
_LONE_PROSE: Final = (
    "Why does {s} not work any more?", "I use {s}, is that right?", "It says: {s}", "The one I have is `{s}`.",
    "({s}) is what they sent me.",
)  # fmt: skip

_BEFORE: Final = "Here is my problem with the harbor service, it worked until Monday.\n"
_AFTER: Final = "\nCan you tell me what to change?"


def planted(each: int, seed: int = 0) -> Iterator[Planted]:
    """`each` texts for every rule and setting; the same seed gives the same texts."""
    for rule in RULES:
        for setting in SETTINGS:
            for number in range(each):
                yield _plant(rule, setting, random.Random(f"{seed} {rule.id} {setting} {number}"))


def left_over(cleaned: str, secret: str) -> bool:
    """Whether 12 characters or more of `secret` (all of it, where it is shorter) still stand in `cleaned`."""
    size = min(12, len(secret))
    return any(secret[at : at + size] in cleaned for at in range(len(secret) - size + 1))


def _plant(rule: Rule, setting: str, dice: random.Random) -> Planted:
    value = _value(rule.shape, dice)
    secret = value
    if marked := re.search("«(.*)»", value, re.DOTALL):
        # The shape is a whole snippet, in which the secret is marked.
        secret = marked[1]
        value = value[: marked.start()] + secret + value[marked.end() :]
    if setting == "prose":
        return _in(rule, setting, value, secret, _NAMED_PROSE if rule.named else _LONE_PROSE, dice)
    plant = _in(rule, setting, value, secret, _NAMED_CODE if rule.named else _LONE_CODE, dice)
    if setting == "code":
        return plant
    name = rule.id.replace("-", "_")
    inside = {name if rule.named else "note": value}
    form = dice.randrange(3)
    if form == 0:
        content = json.dumps(inside, indent=1)
    elif form == 1:
        content = json.dumps({"tool": "http", "input": {**inside, "page": 2}})
    else:
        content = json.dumps({"config.ini": f"A=1\n{name.upper() + '=' if rule.named else ''}{value}\nB=true"})
    return Planted(rule.id, setting, content, json.dumps(secret)[1:-1])


def _in(rule: Rule, setting: str, value: str, secret: str, forms: tuple[str, ...], dice: random.Random) -> Planted:
    words = rule.id.split("-")
    camel = words[0] + "".join(word.title() for word in words[1:])
    names = {"n": "_".join(words), "N": "_".join(words).upper(), "C": camel, "w": " ".join(words)}
    if not rule.named and ("\n" in value or " " in value):
        forms = ("{s}",)  # a snippet is no value: it stands for itself
    line = dice.choice(forms)
    for name, word in names.items():
        line = line.replace("{" + name + "}", word)
    return Planted(rule.id, setting, _BEFORE + line.replace("{s}", value) + _AFTER, secret)


def _value(shape: str, dice: random.Random) -> str:
    def some(match: re.Match[str]) -> str:
        kind, count = match[1], int(match[2] or 0)
        if kind in "uV":
            text = "-".join(_chars("h", size, dice) for size in (8, 4, 4, 4, 12))
            return text.upper() if kind == "V" else text
        return _chars(kind, count, dice)

    return re.sub(r"\{([a-zA-Z])(\d*)\}", some, shape)


def _chars(kind: str, count: int, dice: random.Random) -> str:
    letters = _CLASSES[kind]
    text = [dice.choice(letters) for _ in range(count)]
    # As real ones do, it begins and ends with a letter or digit, and has a digit where its class has any.
    for place in (0, -1):
        while text[place] in "_-+/":
            text[place] = dice.choice(letters)
    if kind not in "ldq" and count > 4 and not any(char in _DIGITS for char in text):
        text[count // 2] = dice.choice([char for char in letters if char in _DIGITS])
    return "".join(text)
