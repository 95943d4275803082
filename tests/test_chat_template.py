"""Chat templates: a sandbox, what those of known families use, and one sentence for each that cannot be used."""

from __future__ import annotations

import datetime
from pathlib import Path

import pytest
from support.models import make_base

from meton_plugins.finetune.errors import ModelError, UsageError
from meton_plugins.finetune.gguf.chat_template import BUILT_IN, ChatTemplate, template_for
from meton_plugins.finetune.gguf.inspect import GgufInfo, inspect

SYSTEM = {"role": "system", "content": "Be kind."}
ASK = {"role": "user", "content": "The sky?"}
SAY = {"role": "assistant", "content": "Blue."}
MORE = {"role": "user", "content": "The sea?"}


def render(source: str, *messages: dict[str, str], generate: bool = False) -> str:
    return ChatTemplate(source, bos="<s>", eos="</s>").render(messages or (SYSTEM, ASK, SAY), generate=generate)


RENDERED = {
    "chatml": "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nThe sky?<|im_end|>\n"
    "<|im_start|>assistant\nBlue.<|im_end|>\n",
    "llama-2": "<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nThe sky? [/INST] Blue. </s>",
    "llama-3": "<s><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nThe sky?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\nBlue.<|eot_id|>",
    "deepseek": "<s>Be kind.\n### Instruction:\nThe sky?\n### Response:\nBlue.\n</s>\n",
}


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in(name: str) -> None:
    assert render(BUILT_IN[name]) == RENDERED[name]


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("turns", [(ASK,), (SYSTEM, ASK), (ASK, SAY, MORE), (SYSTEM, ASK, SAY, MORE)])
def test_built_in_continues_its_own_prompt(name: str, turns: tuple[dict[str, str], ...]) -> None:
    prompt = render(BUILT_IN[name], *turns, generate=True)
    whole = render(BUILT_IN[name], *turns, SAY)
    assert whole.startswith(prompt)
    assert "Blue." in whole[len(prompt) :]


#: Written by us in the manner of each family; what it gives for SYSTEM, ASK, SAY and a generation prompt.
FAMILIES = {
    "qwen2.5": (
        "{%- if tools %}\n    {{- '# Tools' }}\n{%- else %}\n    {%- if messages[0]['role'] == 'system' %}\n"
        "        {{- '<|im_start|>system\\n' + messages[0]['content'] + '<|im_end|>\\n' }}\n    {%- else %}\n"
        "        {{- '<|im_start|>system\\nDefault.<|im_end|>\\n' }}\n    {%- endif %}\n{%- endif %}\n"
        "{%- for message in messages %}\n"
        '    {%- if (message.role == "user") or (message.role == "system" and not loop.first) '
        'or (message.role == "assistant" and not message.tool_calls) %}\n'
        "        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}\n"
        "    {%- endif %}\n{%- endfor %}\n"
        "{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n",
        RENDERED["chatml"] + "<|im_start|>assistant\n",
    ),
    "llama-3.1": (
        "{{- bos_token }}\n{%- if not date_string is defined %}\n    {%- if strftime_now is defined %}\n"
        '        {%- set date_string = strftime_now("%d %b %Y") %}\n    {%- else %}\n'
        '        {%- set date_string = "26 Jul 2024" %}\n    {%- endif %}\n{%- endif %}\n'
        "{%- if messages[0]['role'] == 'system' %}\n    {%- set system_message = messages[0]['content']|trim %}\n"
        "    {%- set messages = messages[1:] %}\n{%- else %}\n    {%- set system_message = \"\" %}\n{%- endif %}\n"
        "{%- if not tools_in_user_message is defined %}\n    {%- set tools_in_user_message = true %}\n{%- endif %}\n"
        '{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}\n{{- "Today Date: " + date_string + "\\n\\n" }}\n'
        '{{- system_message }}\n{{- "<|eot_id|>" }}\n{%- for message in messages %}\n'
        "    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim "
        "+ '<|eot_id|>' }}\n{%- endfor %}\n"
        "{%- if add_generation_prompt %}\n"
        "    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n{%- endif %}\n",
        "<s><|start_header_id|>system<|end_header_id|>\n\nToday Date: 02 Mar 2026\n\nBe kind.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nThe sky?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nBlue.<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "qwen3": (
        "{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}\n"
        "{%- for message in messages[::-1] %}\n    {%- set index = (messages|length - 1) - loop.index0 %}\n"
        '    {%- if ns.multi_step_tool and message.role == "user" and message.content is string '
        "and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}\n"
        "        {%- set ns.multi_step_tool = false %}\n        {%- set ns.last_query_index = index %}\n"
        "    {%- endif %}\n{%- endfor %}\n"
        "{%- for message in messages %}\n    {%- if message.reasoning_content is string %}\n    {%- endif %}\n"
        "    {%- set content = message.content.split('</think>')[-1].lstrip('\\n') %}\n"
        "    {{- message.role ~ ':' ~ content ~ ('!' if loop.index0 > ns.last_query_index else '') ~ ';' }}\n"
        "{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- 'assistant:' }}\n"
        "    {%- if enable_thinking is defined and enable_thinking is false %}\n"
        "        {{- '<think></think>' }}\n    {%- endif %}\n{%- endif %}",
        "system:Be kind.;user:The sky?;assistant:Blue.!;assistant:<think></think>",
    ),
    "mistral": (
        "{%- if messages[0]['role'] == 'system' %}{%- set system_message = messages[0]['content'] %}"
        "{%- set loop_messages = messages[1:] %}{%- else %}{%- set loop_messages = messages %}{%- endif %}"
        "{{- bos_token }}{%- for message in loop_messages %}"
        "{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
        "{{- raise_exception('roles must alternate') }}{%- endif %}"
        "{%- if message['role'] == 'user' %}"
        "{%- if loop.first and system_message is defined %}"
        "{{- ' [INST] ' + system_message + '\\n\\n' + message['content'] + ' [/INST]' }}"
        "{%- else %}{{- ' [INST] ' + message['content'] + ' [/INST]' }}{%- endif %}"
        "{%- else %}{{- ' ' + message['content'] + eos_token }}{%- endif %}{%- endfor %}",
        "<s> [INST] Be kind.\n\nThe sky? [/INST] Blue.</s>",
    ),
    "loop-controls": (
        "{% for m in messages %}{% if m.role == 'system' %}{% continue %}{% endif %}"
        "{% if m.role == 'assistant' %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
        "The sky?",
    ),
    "blocks-are-trimmed": ("{% if true %}\n    {% set x = 1 %}\nyes\n{% endif %}\n", "yes\n"),
    "macro-and-filters": (
        "{% macro head(role) %}[{{ role | upper }}]{% endmacro %}"
        "{% for m in messages | selectattr('role', 'ne', 'system') | list %}"
        "{{ head(m.role) }}{{ m.content }}{% endfor %}",
        "[USER]The sky?[ASSISTANT]Blue.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_features_that_families_use(name: str) -> None:
    source, expected = FAMILIES[name]
    template = ChatTemplate(source, bos="<s>", eos="</s>", today=datetime.datetime(2026, 3, 2))
    assert template.render((SYSTEM, ASK, SAY), generate=True) == expected


def test_date_is_today_where_none_is_given() -> None:
    before = datetime.date.today()
    written = ChatTemplate("{{ strftime_now('%Y-%m-%d') }}").render([ASK], generate=True)
    assert before.isoformat() <= written <= datetime.date.today().isoformat()


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("{'a': 'é<&', 'b': [1, 2.5, true, none]} | tojson", '{"a": "é<&", "b": [1, 2.5, true, null]}'),
        ("{'b': 1, 'a': 2} | tojson(indent=2)", '{\n  "b": 1,\n  "a": 2\n}'),
        ("{'b': 1, 'a': 2} | tojson(sort_keys=true)", '{"a": 2, "b": 1}'),
        ("'日本' | tojson", '"日本"'),
    ],
    ids=["plain", "indent", "sorted", "text"],
)
def test_tojson_is_plain_json(expression: str, expected: str) -> None:
    # Jinja's own escapes < and & for web pages, and é.
    assert render("{{ " + expression + " }}") == expected


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__class__ }}",
        "{{ cycler.__init__.__globals__.os.system('touch pwned') }}",
        "{{ self.__init__.__globals__ }}",
        "{{ raise_exception.__globals__['__builtins__'] }}",
        "{{ strftime_now.__self__.__class__ }}",
        "{% for f in namespace.__init__.__globals__ %}{{ f }}{% endfor %}",
        "{{ ('%s' | attr('__class__')) }}{{ ''['__class__'] + 'x' }}",
        "{{ '{0.__class__.__init__.__globals__}'.format(messages) + lipsum.__globals__ }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update({'content': 'changed'}) }}",
        "{% include '/etc/passwd' %}",
        "{% import 'os' as os %}",
        "{{ [].__class__.__base__ }}",
        "{{ range(10 ** 9) | list }}",
    ],
)
def test_template_stays_in_its_sandbox(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    messages = [dict(ASK)]
    try:
        text = ChatTemplate(source).render(messages, generate=True)
    except ModelError as error:
        text = ""
        sentence = error.sentence
        assert sentence.startswith("The chat template cannot render this conversation (")
        assert sentence.endswith(").")
    for word in ("class", "function", "module", "root:"):
        assert word not in text
    assert not list(tmp_path.iterdir())
    assert messages == [ASK]


def test_messages_are_not_changed_by_a_template() -> None:
    messages = [dict(ASK), dict(SAY)]
    with pytest.raises(ModelError):
        render("{% set _ = messages.pop() %}", *messages)
    assert messages == [ASK, SAY]


@pytest.mark.parametrize(
    "source",
    [
        "{{ 1 / 0 }}",
        "{{ 'a' + 1 }}",
        "{{ messages[7]['content'] + '' }}",
        "{{ nothing.at.all }}",
        "{{ messages | nofilter }}",
        "{{ 'x' * 10 ** 14 }}",
        "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
        "{{ strftime_now(3) }}",
    ],
    ids=["division", "types", "missing", "undefined", "filter", "memory", "recursion", "value"],
)
def test_template_that_breaks_is_one_sentence(source: str) -> None:
    with pytest.raises(ModelError) as caught:
        render(source)
    assert "\n" not in caught.value.sentence
    assert caught.value.sentence.endswith((").", "--chat-template."))


@pytest.mark.parametrize("source", ["{% for m in messages %}", "{{ messages[ }}", "{% nothing %}", "{{ 'a }}"])
def test_invalid_jinja_is_one_sentence(source: str) -> None:
    with pytest.raises(
        ModelError, match=r"^The chat template is not valid Jinja \(.*\): name one with --chat-template\.$"
    ):
        render(source)


def test_refusal_of_a_template_is_its_own_words() -> None:
    with pytest.raises(ModelError, match=r"^The chat template refuses this conversation: roles must alternate\.$"):
        render(FAMILIES["mistral"][0], SAY, ASK)


@pytest.fixture
def info(tmp_path: Path) -> GgufInfo:
    return inspect(make_base(tmp_path / "b.gguf", "llama", "spm", layers=1, width=8, heads=2, inner=8))


def test_bases_own_template_by_default(info: GgufInfo) -> None:
    template = template_for(info, None)
    assert (template.source, template.bos, template.eos) == (BUILT_IN["chatml"], "<s>", "</s>")


@pytest.mark.parametrize("name", BUILT_IN)
def test_built_in_by_name(info: GgufInfo, name: str) -> None:
    assert template_for(info, name).source == BUILT_IN[name]


def test_file(info: GgufInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.jinja").write_text("{{ messages[0].content }} é", encoding="utf-8")
    assert template_for(info, str(tmp_path / "mine.jinja")).render([ASK], generate=True) == "The sky? é"
    monkeypatch.setenv("HOME", str(tmp_path))
    assert template_for(info, "~/mine.jinja").render([ASK], generate=True) == "The sky? é"


@pytest.mark.parametrize("case", ["unknown", "folder", "binary"])
def test_name_of_nothing_is_one_sentence(info: GgufInfo, tmp_path: Path, case: str) -> None:
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    wanted = {"unknown": "llama-9", "folder": str(tmp_path), "binary": str(tmp_path / "binary")}[case]
    with pytest.raises(UsageError) as caught:
        template_for(info, wanted)
    assert caught.value.sentence == (
        f"There is no chat template {wanted!r}: give one of chatml, llama-2, llama-3, deepseek or a Jinja file."
    )


def test_base_without_one_is_one_sentence(tmp_path: Path) -> None:
    path = make_base(tmp_path / "b.gguf", layers=1, width=8, heads=2, inner=8, chat_template=None)
    with pytest.raises(ModelError) as caught:
        template_for(inspect(path), None)
    assert caught.value.sentence == (
        "b.gguf has no chat template: add --chat-template chatml|llama-2|llama-3|deepseek|FILE."
    )
    assert template_for(inspect(path), "chatml").source == BUILT_IN["chatml"]
