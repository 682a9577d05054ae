"""What an error of a model server's client means. Of the error, only a kind and a status leave this module.

The words of servers are public: OpenAI and Azure, OpenRouter, vLLM, SGLang, llama.cpp's server, TGI. They tell apart
what a status does not. The texts may quote a post, so they are searched and never kept.
"""

from __future__ import annotations

import math
import ssl
import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any

from openai import APIConnectionError, APIStatusError, APITimeoutError


class Cause(StrEnum):
    """Why a server gives no answers."""

    UNREACHABLE = "unreachable"  # no connection, or no response in time
    FAILING = "failing"  # it responds with 5xx, or with what is no response
    OVERLOADED = "overloaded"  # it responds with 429
    QUOTA = "quota"  # the account has used up what it may use
    DENIED = "denied"  # the key or the certificate is refused, or the model is not there
    REJECTING = "rejecting"  # it refuses requests that it took before
    BUDGET = "budget"  # our own limit of an hour's cost


TRANSIENT = frozenset({Cause.UNREACHABLE, Cause.FAILING, Cause.OVERLOADED})


@dataclass(frozen=True, slots=True)
class Failure:
    """A request without a reply."""

    kind: str  # a label of metrics: timeout, connection, certificate, malformed, http_429, quota, filtered, too_long
    cause: Cause | None  # what it says about the server, if the server fails on others, too; None: only this request
    status: int = 0  # of HTTP; 0: there was no response
    retry_after_s: float = 0.0  # as the server asked

    @property
    def filtered(self) -> bool:
        """Whether a content filter stopped the request."""
        return self.kind == "filtered"

    @property
    def too_long(self) -> bool:
        """Whether the request is larger than the server takes."""
        return self.kind == "too_long"

    @property
    def explained(self) -> bool:
        """Whether the server has said that it is about this request."""
        return self.filtered or self.too_long

    @property
    def transient(self) -> bool:
        """Whether the same request may succeed soon."""
        return self.cause in TRANSIENT


# Statuses with a meaning of their own. Others: 5xx is FAILING, 3xx is DENIED (the URL leads elsewhere), 4xx is about
# this request.
STATUSES = {
    401: Cause.DENIED,
    402: Cause.QUOTA,
    403: Cause.DENIED,
    404: Cause.DENIED,
    408: Cause.UNREACHABLE,  # the server waited for the request
    409: Cause.FAILING,  # another request holds what this one needs
    425: Cause.FAILING,
    429: Cause.OVERLOADED,
    529: Cause.OVERLOADED,
}
QUOTA = frozenset(
    {"insufficient_quota", "billing_hard_limit_reached", "billing_not_active", "exceeded_current_quota_error"}
)
FILTERED = frozenset(
    {
        "content_filter",  # Azure
        "responsibleaipolicyviolation",
        "content_policy_violation",
        "image_content_policy_violation",
        "invalid_prompt",  # OpenAI, for models that reason
        "moderation_blocked",
        "bio_policy",
        "misalignment_policy_violation",
    }
)
TOO_LONG = frozenset(
    {
        "context_length_exceeded",  # OpenAI
        "string_above_max_length",
        "exceed_context_size_error",  # llama.cpp
        "request_too_large",
        "token_limit_exceeded",
    }
)
TOO_LONG_STATUSES = frozenset({400, 413, 422, 429, 500})  # llama.cpp's server used 500
TOO_LONG_WORDS = (
    "maximum context length",  # OpenAI, vLLM, SGLang
    "model's context length",  # SGLang: the input is longer than it
    "maximum model length",  # vLLM
    "maximum allowed length",  # SGLang
    "available context size",  # llama.cpp
    "too large to process",  # llama.cpp: larger than its batch
    "context window",
    "request too large",  # OpenAI, as 429: more tokens than the account may send in a minute
    "prompt is too long",
    "input is too long",
    "`inputs` tokens + `max_new_tokens` must be",  # TGI
)
SEARCHED = 2_000  # characters of a text: servers say first what is wrong, and may quote the request after it
LONGEST_S = 86_400.0  # that a server's pause is believed


def of(error: Exception) -> Failure:
    """The meaning of an error. What is no error of the client says that the response could not be read."""
    if isinstance(error, TimeoutError | APITimeoutError):
        return Failure("timeout", Cause.UNREACHABLE)
    if isinstance(error, APIConnectionError):
        if _is_certificate(error):
            return Failure("certificate", Cause.DENIED)
        return Failure("connection", Cause.UNREACHABLE)
    if isinstance(error, APIStatusError):
        return _of_status(error)
    return Failure("malformed", Cause.FAILING)


def _of_status(error: APIStatusError) -> Failure:
    status = error.status_code
    codes = _codes(error)
    if codes & FILTERED or _is_flagged(error):
        return Failure("filtered", None, status)
    if codes & TOO_LONG or status == 413 or (status in TOO_LONG_STATUSES and _says_too_long(error)):
        return Failure("too_long", None, status)
    if codes & QUOTA:
        return Failure("quota", Cause.QUOTA, status)
    retry_after_s = _retry_after(error)
    if status == 503 and retry_after_s:
        cause: Cause | None = Cause.OVERLOADED
    elif status in STATUSES:
        cause = STATUSES[status]
    elif status >= 500:
        cause = Cause.FAILING
    else:
        cause = Cause.DENIED if status < 400 else None
    return Failure(f"http_{status}", cause, status, retry_after_s)


def _codes(error: APIStatusError) -> set[str]:
    """The machine-readable words of an error, in small letters."""
    body: Any = error.body if isinstance(error.body, dict) else {}
    inner = body.get("innererror")  # Azure
    values = [body.get("code"), body.get("type"), inner.get("code") if isinstance(inner, dict) else None]
    metadata = body.get("metadata")  # OpenRouter
    values.append(metadata.get("error_type") if isinstance(metadata, dict) else None)
    return {value.lower() for value in values if isinstance(value, str)}


def _is_flagged(error: APIStatusError) -> bool:
    """Whether OpenRouter says that a filter has flagged the content."""
    body: Any = error.body if isinstance(error.body, dict) else {}
    metadata = body.get("metadata")
    return isinstance(metadata, dict) and bool(metadata.get("reasons") or metadata.get("patterns"))


def _says_too_long(error: APIStatusError) -> bool:
    body: Any = error.body
    texts = [body.get(name) for name in ("message", "detail", "error")] if isinstance(body, dict) else [body]
    detail = body.get("detail") if isinstance(body, dict) else None  # of System One: one object, or a list of them
    for entry in detail if isinstance(detail, list) else [detail]:
        texts += [entry.get("message"), entry.get("msg")] if isinstance(entry, dict) else []
    said = " ".join(text[:SEARCHED] for text in texts if isinstance(text, str)).lower()
    return any(words in said for words in TOO_LONG_WORDS)


def _retry_after(error: APIStatusError) -> float:
    """Seconds of Retry-After, which is a number or a date, or of the milliseconds that OpenAI and Azure send."""
    headers = error.response.headers
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        try:
            seconds = float(headers.get(name, "")) * unit
        except ValueError:
            continue
        return min(max(0.0, seconds), LONGEST_S) if not math.isnan(seconds) else 0.0
    try:
        moment = parsedate_to_datetime(headers.get("retry-after", ""))
        return min(max(0.0, moment.timestamp() - time.time()), LONGEST_S)
    except (ValueError, OverflowError):
        return 0.0


def _is_certificate(error: BaseException) -> bool:
    """Whether the server's certificate is refused."""
    cause: BaseException | None = error
    for _ in range(8):
        if cause is None or isinstance(cause, ssl.SSLCertVerificationError):
            break
        cause = cause.__cause__ or cause.__context__
    return isinstance(cause, ssl.SSLCertVerificationError)
