"""What an error of a model server's client means. Of the error, only a kind and a status leave this module."""

from __future__ import annotations

from dataclasses import dataclass

from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError

from moderation.models.remote.breaker import Cause


@dataclass(frozen=True, slots=True)
class Failure:
    """A request without a reply."""

    kind: str  # a label of metrics: timeout, connection, malformed, http_429, quota, filtered, too_long, rejected, ...
    cause: Cause | None  # what it says about the server; None: it is about this request
    status: int = 0  # of HTTP; 0: there was no response
    retry_after_s: float | None = None  # as the server asked
    filtered: bool = False  # a content filter stopped the request
    too_long: bool = False  # the request exceeds the model's context


def of(error: APIError | TimeoutError | ValueError) -> Failure:
    """The meaning of an error."""
    if isinstance(error, TimeoutError | APITimeoutError):
        return Failure("timeout", Cause.UNREACHABLE)
    if isinstance(error, APIConnectionError):
        return Failure("connection", Cause.UNREACHABLE)
    if isinstance(error, APIStatusError):
        return _of_status(error)
    return Failure("malformed", Cause.FAILING)


def _of_status(error: APIStatusError) -> Failure:
    raise NotImplementedError(error.status_code)
