"""Chat templates: the base's own Jinja, run in a sandbox, and four built in for bases that have none."""

from __future__ import annotations

import datetime
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ..errors import ModelError, UsageError

if TYPE_CHECKING:
    from .inspect import GgufInfo

__all__ = ["BUILT_IN", "ChatTemplate", "template_for"]

#: Written by us after the formats' public descriptions.
BUILT_IN: Final[Mapping[str, str]] = {
    "chatml": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    ),
    "llama-2": (
        "{% set ns = namespace(system='') %}{% for m in messages %}"
        "{% if m.role == 'system' %}{% set ns.system = '<<SYS>>\n' + m.content + '\n<</SYS>>\n\n' %}"
        "{% elif m.role == 'user' %}{{ bos_token + '[INST] ' + ns.system + m.content + ' [/INST]' }}"
        "{% set ns.system = '' %}"
        "{% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}"
    ),
    "llama-3": (
        "{{ bos_token }}{% for m in messages %}"
        "{{ '<|start_header_id|>' + m.role + '<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
    ),
    "deepseek": (
        "{{ bos_token }}{% for m in messages %}"
        "{% if m.role == 'system' %}{{ m.content + '\n' }}"
        "{% elif m.role == 'user' %}{{ '### Instruction:\n' + m.content + '\n' }}"
        "{% else %}{{ '### Response:\n' + m.content + '\n' + eos_token + '\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '### Response:\n' }}{% endif %}"
    ),
}


def _fail(message: str) -> None:
    raise ModelError(f"The chat template refuses this conversation: {message}.")


@functools.lru_cache(maxsize=8)
def _compiled(source: str) -> Any:
    # A template comes with a downloaded model: it must not reach Python's objects.
    import jinja2
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = lambda value, **options: json.dumps(value, ensure_ascii=False, **options)
    environment.globals["raise_exception"] = _fail
    try:
        return environment.from_string(source)
    except (jinja2.TemplateError, RecursionError) as error:
        raise ModelError(f"The chat template is not valid Jinja ({error}): name one with --chat-template.") from error


class ChatTemplate:
    """Turns messages into the text a model reads. `today`: the date that some templates write; now, by default."""

    def __init__(self, source: str, *, bos: str = "", eos: str = "", today: datetime.datetime | None = None) -> None:
        self.source = source
        self.bos = bos
        self.eos = eos
        self.today = today

    def render(self, messages: Sequence[Mapping[str, str]], *, generate: bool) -> str:
        """The text of `messages`; with `generate`, up to where the assistant's next answer begins."""
        template = _compiled(self.source)
        try:
            text = template.render(
                messages=[dict(m) for m in messages],
                add_generation_prompt=generate,
                bos_token=self.bos,
                eos_token=self.eos,
                tools=None,
                documents=None,
                enable_thinking=False,
                strftime_now=(self.today or datetime.datetime.now()).strftime,
            )
        except ModelError:
            raise
        except Exception as error:  # a template's own 1/0 is no mistake of ours
            why = str(error) or type(error).__name__
            raise ModelError(f"The chat template cannot render this conversation ({why}).") from error
        return str(text)


def template_for(info: GgufInfo, wanted: str | None, today: datetime.datetime | None = None) -> ChatTemplate:
    """The base's own template, or the one `wanted`: a built-in name or a Jinja file."""
    source = info.chat_template
    if wanted and wanted in BUILT_IN:
        source = BUILT_IN[wanted]
    elif wanted:
        try:
            source = Path(wanted).expanduser().read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(
                f"There is no chat template {wanted!r}: give one of {', '.join(BUILT_IN)} or a Jinja file."
            ) from error
    if not source:
        raise ModelError(f"{info.path.name} has no chat template: add --chat-template {'|'.join(BUILT_IN)}|FILE.")
    return ChatTemplate(source, bos=info.bos, eos=info.eos, today=today)
