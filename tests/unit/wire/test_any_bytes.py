"""Values made of good ones by damage, and posts of any content: the promises that `make fuzz` holds for an hour."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from moderation import wire
from moderation.v1 import post_pb2
from tests.fuzz.mutations import mutated
from tests.fuzz.promises import SMALL, wire_values
from tests.fuzz.seeds import SEEDS
from tests.support.wire_values import PROTOBUF, ids, json_values, labels, words

VALUES = list(SEEDS["wire"]())

names = st.sampled_from(["id", "postId", "images", "findings", "text", "outcome"])
files = st.binary(min_size=1, max_size=20).filter(lambda file: not file.lower().startswith(b"data:"))
images = st.lists(
    st.fixed_dictionaries({"data": files}, optional={"alt": words})
    | st.fixed_dictionaries({"uri": words.filter(bool)}, optional={"alt": words}),
    max_size=5,
)
posts = st.fixed_dictionaries(
    {"id": ids, "text": words, "images": images}, optional={"tenant": labels, "language": labels, "surface": labels}
)


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_good_values_keep_the_promises(value: bytes) -> None:
    wire_values(value)


@given(mutated(VALUES))
def test_damaged_values_keep_the_promises(value: bytes) -> None:
    wire_values(value)


@given(
    st.integers(0, 255), st.dictionaries(st.sampled_from(["id", "postId", "images", "findings", "text"]), json_values)
)
def test_objects_of_any_members_keep_the_promises(choice: int, members: dict[str, Any]) -> None:
    wire_values(bytes([choice]) + json.dumps(members).encode())


@given(posts)
def test_a_post_is_the_same_post_in_each_format_and_spelling(post: dict[str, Any]) -> None:
    pictures = [
        {name: base64.b64encode(value).decode() if name == "data" else value for name, value in image.items()}
        for image in post["images"]
    ]
    members = post | {"images": pictures}
    message = json_format.ParseDict(members, post_pb2.Post()).SerializeToString()
    first = wire.post_record(message, PROTOBUF, SMALL)
    assert first.text == post["text"]
    for options in ({}, {"ensure_ascii": False}, {"indent": 2}):
        assert wire.post_record(json.dumps(members, **options).encode(), [], SMALL) == first
