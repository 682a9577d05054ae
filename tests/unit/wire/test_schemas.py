"""The JSON Schemas beside the protos and moderation/wire accept the same JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from moderation import wire
from moderation.errors import PostError
from moderation.settings import MediaSettings
from tests.support.builders import a_verdict

PROTOS = Path(__file__).parents[3] / "protos" / "moderation" / "v1"


def schema(name: str) -> Draft202012Validator:
    content = json.loads((PROTOS / f"{name}.schema.json").read_text())
    Draft202012Validator.check_schema(content)
    return Draft202012Validator(content)


def test_a_written_verdict_is_valid_by_its_schema() -> None:
    value, _ = wire.verdict_record(a_verdict(), "json")
    schema("verdict").validate(json.loads(value))
    assert not schema("verdict").is_valid(json.loads(value) | {"outcome": "MAYBE"})


@pytest.mark.parametrize(
    ("post", "valid"),
    [
        ({"id": "1", "text": "x", "images": [{"data": "AAAA"}, {"uri": "file:///a"}], "language": "de"}, True),
        ({"id": "1", "txt": "x"}, False),
        ({"id": 1}, False),
        ({"id": "1", "images": {"data": "AAAA"}}, False),
        ({"id": "1", "images": [{"data": "AAAA", "uri": "file:///a"}]}, False),
        ({"id": "1", "images": [{}]}, False),
    ],
)
def test_schema_and_reader_agree_on_a_post(post: dict[str, Any], valid: bool) -> None:
    assert schema("post").is_valid(post) is valid
    try:
        wire.post_record(json.dumps(post).encode(), (), MediaSettings())
        read = True
    except PostError:
        read = False
    assert read is valid
