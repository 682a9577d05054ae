from __future__ import annotations

import json
from pathlib import Path

import pytest

from moderation.errors import ConfigError
from moderation.models.general.chat import Borders, ChatTemplate, Frame, read

PLAIN = """\
{%- for message in messages -%}
<|{{ message.role }}|>
{% for part in message.content -%}
{{ part.text if part.type == 'text' else '<image>' }}
{%- endfor -%}
<|end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|assistant|>
{% endif -%}
"""


def a_template(folder: Path, source: str = PLAIN) -> ChatTemplate:
    (folder / "chat_template.jinja").write_text(source, encoding="utf-8")
    return ChatTemplate(folder, "<image>", {"bos_token": "<s>"})


def test_a_template_is_taken_apart_around_pictures_and_words(tmp_path: Path) -> None:
    template = a_template(tmp_path)
    template.check()
    tail = "<|end|>\n<|assistant|>\n"
    assert template.frame(0) == Frame(("<|user|>\n",), tail)
    assert template.frame(2) == Frame(("<|user|>\n", "", ""), tail)
    assert template.borders == Borders(answer=tail, user="<|end|>\n<|user|>\n")


def test_a_template_may_read_special_tokens_mark_generation_and_write_json(tmp_path: Path) -> None:
    source = "{{ bos_token }}{{ {'a': '<é>'} | tojson }}" + PLAIN.replace(
        "{{ part.text", "{% generation %}{% endgeneration %}{{ part.text"
    )
    assert a_template(tmp_path, source).frame(0).pieces == ('<s>{"a": "<é>"}<|user|>\n',)


def test_a_template_cannot_reach_what_python_has(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="fails with a turn"):
        a_template(tmp_path, "{{ ''.__class__.__mro__[1].__subclasses__() }}" + PLAIN).check()


@pytest.mark.parametrize(
    ("source", "match"),
    [
        (PLAIN.replace("part.text", "part.text | upper"), "once, in order and unchanged"),
        (PLAIN.replace("{{ part.text", "{{ part.text }}{{ part.text"), "once, in order and unchanged"),
        (PLAIN.replace("message.content -%}", "message.content | reverse -%}"), "before the words of their turn"),
        (PLAIN.replace("'<image>'", "'<image><image>'"), "once for each of 1 pictures"),
        (PLAIN.replace("<|end|>", "{{ message.content | length }}"), "other words behind a turn"),
        (PLAIN.replace("message.role", "strftime_now('%d')"), "fails with a turn"),
    ],
)
def test_a_template_that_cannot_be_taken_apart_is_refused(tmp_path: Path, source: str, match: str) -> None:
    template = a_template(tmp_path, source)
    with pytest.raises(ConfigError, match=match) as caught:
        template.check()
    assert str(caught.value).startswith(str(tmp_path / "chat_template.jinja"))


def test_a_template_without_turns_of_the_assistant_has_no_borders(tmp_path: Path) -> None:
    source = "{{ raise_exception('one turn') if messages | length > 1 }}" + PLAIN
    with pytest.raises(ConfigError, match="one turn"):
        assert a_template(tmp_path, source).borders


def test_what_is_not_a_template_names_its_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"chat_template\.jinja: the chat template is not one"):
        a_template(tmp_path, "{% for message in messages %}")


def test_the_first_file_with_a_template_counts(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no chat template"):
        read(tmp_path)
    several = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    for name, content, expected in (
        ("tokenizer_config.json", several, "d"),
        ("processor_config.json", "p", "p"),
        ("chat_template.json", "c", "c"),
    ):
        (tmp_path / name).write_text(json.dumps({"chat_template": content}))
        assert read(tmp_path) == (tmp_path / name, expected)
    (tmp_path / "chat_template.jinja").write_bytes(b"j")
    assert read(tmp_path) == (tmp_path / "chat_template.jinja", "j")
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff")
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path)
