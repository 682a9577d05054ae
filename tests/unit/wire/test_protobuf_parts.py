"""The fields of a message are counted before the message is parsed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderation.api.grpc.requests import POST_PARTS
from moderation.v1 import moderation_service_pb2 as pb
from moderation.v1.post_pb2 import Image, Post
from moderation.wire import prescan


def test_the_fields_of_a_post_and_its_images_count() -> None:
    images = [Image(data=b"x" * 1_000), Image(uri="file:///a")]
    body = pb.ModeratePostRequest(request_id="r", post=Post(id="a", text="t", images=images)).SerializeToString()
    # The request has two fields, the post has id, text and two images, and each image has one field.
    prescan.check_protobuf(body, POST_PARTS, 8)
    with pytest.raises(prescan.ShapeError, match="more than 7 fields"):
        prescan.check_protobuf(body, POST_PARTS, 7)


def test_many_small_fields_are_refused_before_all_are_counted() -> None:
    body = b"\x0a\x80\x80\x80\x04" + b"\x1a\0" * (4 << 20)
    with pytest.raises(prescan.ShapeError, match="more than 100 fields"):
        prescan.check_protobuf(body, POST_PARTS, 100)


@pytest.mark.parametrize("body", [b"\x0a", b"\x0a\x05ab", b"\xff" * 20, b"\x0b", b"\x09\0", b"\x0a\x02\x0a\x05"])
def test_bytes_that_are_not_a_message_are_refused(body: bytes) -> None:
    with pytest.raises(prescan.ShapeError, match="not well-formed"):
        prescan.check_protobuf(body, POST_PARTS, 100)


@given(st.binary(max_size=200))
def test_any_bytes_are_counted_in_bounded_steps(body: bytes) -> None:
    try:
        prescan.check_protobuf(body, POST_PARTS, 50)
    except prescan.ShapeError:
        return
    assert len(body) < 50 * (20 + 200)
