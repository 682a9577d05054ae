"""Answers to lookups, from verdicts as they are stored: their bytes go into the answer's, and nothing is parsed.

A message's fields may be written one after the other by whoever knows their numbers; that is all that happens here.
"""

from __future__ import annotations

from collections.abc import Iterable

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


def result(post_id: str, found: Found) -> bytes:
    """One of the results of a BatchGetVerdictsResponse; all of them, one after the other, are the whole."""
    state, verdict = found
    id = post_id.encode()
    fields = [_RESULT_ID, _varint(len(id)), id, _STATES_OF_MANY[state]]
    if verdict is not None:
        fields += [_RESULT_VERDICT, _varint(len(verdict)), verdict]
    return b"".join([_RESULT, _varint(sum(map(len, fields))), *fields])


def found_result(post_id: str, verdict: bytes) -> bytes:
    """The result for a post that has a verdict. The verdict's bytes stand at its end."""
    return result(post_id, (pb.LOOKUP_STATE_FOUND, verdict))


def page(verdicts: Iterable[bytes], next_page_token: str) -> bytes:
    """A ListVerdictsResponse."""
    written = [part for verdict in verdicts for part in (_LISTED, _varint(len(verdict)), verdict)]
    return b"".join([*written, pb.ListVerdictsResponse(next_page_token=next_page_token).SerializeToString()])
