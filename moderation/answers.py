"""Answers to lookups, from verdicts as they are stored: their bytes go into the answer's, and nothing is parsed.

A message's fields may be written one after the other by whoever knows their numbers; that is all that happens here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from google.protobuf.message import Message

from moderation.v1 import moderation_service_pb2 as pb

Found = tuple[pb.LookupState, bytes | None]  # and the verdict's bytes when it is FOUND


def _tag(message: type[Message], field: str) -> bytes:
    """What stands before a field that has a length."""
    return _varint(message.DESCRIPTOR.fields_by_name[field].number << 3 | 2)


def _varint(number: int) -> bytes:
    written = bytearray()
    while number > 127:
        written.append(number & 127 | 128)
        number >>= 7
    written.append(number)
    return bytes(written)


_STATES = {state: pb.GetVerdictResponse(state=name).SerializeToString() for name, state in pb.LookupState.items()}
_STATES_OF_MANY = {state: pb.LookupResult(state=name).SerializeToString() for name, state in pb.LookupState.items()}
_VERDICT = _tag(pb.GetVerdictResponse, "verdict")
_RESULT = _tag(pb.BatchGetVerdictsResponse, "results")
_RESULT_ID = _tag(pb.LookupResult, "post_id")
_RESULT_VERDICT = _tag(pb.LookupResult, "verdict")
_LISTED = _tag(pb.ListVerdictsResponse, "verdicts")


def one(found: Found) -> bytes:
    """A GetVerdictResponse, or a WaitVerdictResponse: they have the same fields."""
    state, verdict = found
    return _STATES[state] if verdict is None else b"".join((_STATES[state], _VERDICT, _varint(len(verdict)), verdict))


def many(post_ids: Sequence[str], found: Iterable[Found]) -> bytes:
    """A BatchGetVerdictsResponse."""
    written: list[bytes] = []
    for post_id, (state, verdict) in zip(post_ids, found, strict=True):
        id = post_id.encode()
        result = _RESULT_ID + _varint(len(id)) + id + _STATES_OF_MANY[state]
        if verdict is None:
            written += (_RESULT, _varint(len(result)), result)
        else:
            length = _varint(len(verdict))
            whole = len(result) + len(_RESULT_VERDICT) + len(length) + len(verdict)
            written += (_RESULT, _varint(whole), result, _RESULT_VERDICT, length, verdict)
    return b"".join(written)


def page(verdicts: Iterable[bytes], next_page_token: str) -> bytes:
    """A ListVerdictsResponse."""
    written = [part for verdict in verdicts for part in (_LISTED, _varint(len(verdict)), verdict)]
    return b"".join([*written, pb.ListVerdictsResponse(next_page_token=next_page_token).SerializeToString()])
