"""What each error of a real client against a real socket means."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from moderation.models.remote import failures
from moderation.models.remote.failures import Cause, Failure
from tests.support.key_server import key_server
from tests.support.model_server import (
    SECRET,
    ModelServer,
    Play,
    completion,
    cut,
    dripping,
    error,
    model_server,
    raw,
    reset,
    sends,
    silence,
)
from tests.support.plain_wire import PlainWire, a_client, a_window

OK = b"HTTP/1.1 200 OK\r\n"
JSON = b"Content-Type: application/json\r\n"
LONG = b" " * (1 << 20)
AZURE = {
    "code": "content_filter",
    "message": SECRET,
    "param": "prompt",
    "type": None,
    "status": 400,
    "innererror": {"code": "ResponsibleAIPolicyViolation", "content_filter_result": {"hate": {"filtered": True}}},
}
FLAGGED = {"code": 403, "message": SECRET, "metadata": {"reasons": ["violence"], "flagged_input": SECRET}}


def flat(message: str, status: int = 400) -> Play:
    """As older vLLM and SGLang write an error."""
    return sends(
        status, {"object": "error", "message": message, "type": "BadRequestError", "param": None, "code": status}
    )


UNREACHABLE = {
    "no word": (cut, "connection"),
    "a reset": (reset, "connection"),
    "a cut body": (raw(OK + JSON + b"Content-Length: 100\r\n\r\n{"), "connection"),
    "cut chunks": (raw(OK + JSON + b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"a"'), "connection"),
    "no HTTP": (raw(b"\x00\x01 what a server says\r\n\r\n"), "connection"),
    "silence": (silence, "timeout"),
    "a slow head": (dripping(OK + b"X: ", b"x"), "timeout"),
    "a slow body": (dripping(OK + JSON + b"Content-Length: 9000\r\n\r\n", b" "), "timeout"),
    "408": (error(408), "http_408"),
}
FAILING = {
    "HTML": (sends(200, "<html><body>Sign in</body></html>", content_type="text/html"), "malformed"),
    "HTML that says it is JSON": (sends(200, "<html>"), "malformed"),
    "no UTF-8": (sends(200, b"\xff\xfe"), "malformed"),
    "an empty body": (sends(200, ""), "malformed"),
    "a list": (sends(200, [1]), "malformed"),
    "a string": (sends(200, '"yes"'), "malformed"),
    "deep JSON": (sends(200, b"[" * 200_000), "malformed"),
    "an error as 200": (error(200), "malformed"),
    "no choices": (sends(200, {"model": "m", "choices": []}), "malformed"),
    "choices are null": (sends(200, {"model": "m", "choices": None}), "malformed"),
    "a choice is null": (sends(200, {"model": "m", "choices": [None]}), "malformed"),
    "a huge body": (sends(200, LONG * 5), "malformed"),
    "an endless body": (dripping(OK + JSON + b"\r\n", LONG, 0.0), "malformed"),
    "a compressed body": (sends(200, b"\x1f\x8b", content_encoding="gzip"), "malformed"),
    "409": (error(409), "http_409"),
    "500": (error(500), "http_500"),
    "500 HTML": (sends(500, "<html>", content_type="text/html"), "http_500"),
    "502": (sends(502, ""), "http_502"),
    "503": (error(503, "Loading model", type="unavailable_error"), "http_503"),
}
DENIED = {
    "401": (error(401, code="invalid_api_key"), "http_401"),
    "403": (error(403), "http_403"),
    "404 of a model": (error(404, code="model_not_found"), "http_404"),
    "404 of a path": (sends(404, {"detail": "Not Found"}), "http_404"),
    "a redirect": (error(302, location="http://127.0.0.1:9/"), "http_302"),
}
THIS_REQUEST = {
    "400": (error(400, type="invalid_request_error"), "http_400"),
    "400 of a code that is a number": (error(400, code=400), "http_400"),
    "422": (sends(422, {"detail": [{"loc": ["body", "model"], "msg": SECRET, "type": "value_error"}]}), "http_422"),
    "OpenAI's context": (error(400, "too long", code="context_length_exceeded"), "too_long"),
    "vLLM's context": (
        error(400, "This model's maximum context length is 4096 tokens. However, you requested 4200 tokens", code=400),
        "too_long",
    ),
    "vLLM's prompt": (
        flat("The decoder prompt (length 5000) is longer than the maximum model length of 4096."),
        "too_long",
    ),
    "SGLang's input": (
        flat("The input (61709 tokens) is longer than the model's context length (40960 tokens)."),
        "too_long",
    ),
    "SGLang's total": (
        flat("Requested token count exceeds the model's maximum context length of 64000 tokens."),
        "too_long",
    ),
    "llama.cpp's context": (
        error(400, "request (4476 tokens) exceeds it", type="exceed_context_size_error", code=400),
        "too_long",
    ),
    "llama.cpp's batch": (error(500, "input is too large to process. increase the physical batch size"), "too_long"),
    "TGI's input": (
        sends(422, {"error": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096"}),
        "too_long",
    ),
    "more than a minute's tokens": (
        error(429, "Request too large for gpt-4o on tokens per min (TPM)", type="tokens", code="rate_limit_exceeded"),
        "too_long",
    ),
    "413": (sends(413, "<html>"), "too_long"),
    "System One's detail": (
        sends(400, {"detail": {"error_type": "api_usage_error", "message": "Longer than the model's context window"}}),
        "too_long",
    ),
    "System One's validation": (
        sends(422, {"detail": [7, {"loc": ["body", "state"], "msg": "Input is too long.", "type": "value_error"}]}),
        "too_long",
    ),
    "Azure's filter": (sends(400, {"error": AZURE}), "filtered"),
    "OpenAI's filter": (error(400, code="content_policy_violation"), "filtered"),
    "OpenAI's filter of prompts": (error(400, code="invalid_prompt"), "filtered"),
    "OpenRouter's filter": (sends(403, {"error": FLAGGED}), "filtered"),
}
CASES: list[Any] = [
    pytest.param(play, Failure(kind, cause), id=name)
    for cause, plays in (
        (Cause.UNREACHABLE, UNREACHABLE),
        (Cause.FAILING, FAILING),
        (Cause.DENIED, DENIED),
        (None, THIS_REQUEST),
        (
            Cause.OVERLOADED,
            {
                "429": (error(429, code="rate_limit_exceeded"), "http_429"),
                "529": (raw(b"HTTP/1.1 529 Site is overloaded\r\nContent-Length: 0\r\n\r\n"), "http_529"),
            },
        ),
        (
            Cause.QUOTA,
            {
                "402": (error(402), "http_402"),
                "quota": (error(429, code="insufficient_quota", type="insufficient_quota"), "quota"),
                "billing": (error(400, code="billing_hard_limit_reached"), "quota"),
            },
        ),
    )
    for name, (play, kind) in plays.items()
]


@pytest.fixture(scope="module")
def server() -> Iterator[ModelServer]:
    with model_server() as server:
        yield server


async def failure(url: str, timeout_s: float = 0.3) -> Failure:
    """What the error of a request to this URL means."""
    client = a_client(url)
    try:
        async with asyncio.timeout(timeout_s):
            await PlainWire().ask(client, a_window(), range(1))
    except Exception as error:  # noqa: BLE001  whatever a client raises
        return failures.of(error)
    finally:
        await client.close()
    raise AssertionError("it was answered")


@pytest.mark.parametrize(("play", "expected"), CASES)
async def test_an_error_has_a_meaning(server: ModelServer, play: Play, expected: Failure) -> None:
    server.plays(play)
    slow = expected.kind != "timeout"
    found = await failure(server.url, 10 if slow else 0.3)
    assert (found.kind, found.cause) == (expected.kind, expected.cause)
    assert found.status == int(expected.kind[5:]) if expected.kind.startswith("http_") else True
    assert found.explained == (expected.kind in ("too_long", "filtered"))
    assert found.transient == (expected.cause in (Cause.UNREACHABLE, Cause.FAILING, Cause.OVERLOADED))
    assert SECRET not in repr(found)


async def test_a_refused_connection_and_an_unknown_host_are_unreachable() -> None:
    with model_server() as server:
        server.down()
        assert await failure(server.url, 10) == Failure("connection", Cause.UNREACHABLE)
    assert await failure("http://nowhere.invalid/v1", 30) == Failure("connection", Cause.UNREACHABLE)


async def test_a_certificate_that_is_not_valid_is_no_outage(tmp_path: Path) -> None:
    with key_server(tmp_path) as server:
        found = await failure(server.url.partition("/keys")[0] + "/v1", 10)
    assert found == Failure("certificate", Cause.DENIED)
    assert not failures.of(ssl.SSLCertVerificationError("no error of the client")).explained


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0.0),
        ({"retry_after": "7"}, 7.0),
        ({"retry_after": "1.5"}, 1.5),
        ({"retry_after_ms": "250", "retry_after": "7"}, 0.25),
        ({"retry_after_ms": "soon", "retry_after": "7"}, 7.0),
        ({"retry_after": "-5"}, 0.0),
        ({"retry_after": "nan"}, 0.0),
        ({"retry_after": "inf"}, failures.LONGEST_S),
        ({"retry_after": "9" * 400}, failures.LONGEST_S),
        ({"retry_after": "soon"}, 0.0),
        ({"retry_after": "Mon, 99 Nov 2026 99:99:99 GMT"}, 0.0),
        ({"retry_after": format_datetime(datetime(1999, 1, 1, tzinfo=UTC), usegmt=True)}, 0.0),
    ],
)
@pytest.mark.parametrize("status", [429, 503])
async def test_a_servers_pause_is_read(
    server: ModelServer, status: int, headers: dict[str, str], seconds: float
) -> None:
    server.plays(error(status, **headers))
    found = await failure(server.url, 10)
    assert found.retry_after_s == seconds
    assert found.cause is (Cause.FAILING if status == 503 and not seconds else Cause.OVERLOADED)


async def test_a_servers_pause_may_be_a_date(server: ModelServer) -> None:
    moment = datetime.now(UTC) + timedelta(seconds=40)
    server.plays(error(429, retry_after=format_datetime(moment, usegmt=True)))
    assert 30 < (await failure(server.url, 10)).retry_after_s <= 40


async def test_a_good_answer_is_no_failure(server: ModelServer) -> None:
    server.plays(completion(0.9))
    with pytest.raises(AssertionError, match="answered"):
        await failure(server.url, 10)


async def test_words_after_the_first_of_a_text_decide_nothing(server: ModelServer) -> None:
    """A server may quote the post, and its author may know our list."""
    server.plays(error(400, "x" * failures.SEARCHED + " maximum context length"))
    assert (await failure(server.url, 10)).kind == "http_400"
