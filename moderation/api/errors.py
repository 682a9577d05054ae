"""Why a call is refused: one error that every edge of the API translates into its own statuses.

Nothing here knows a transport. `api/grpc/status.py` maps the kinds to gRPC codes.
"""

from __future__ import annotations

from enum import Enum

from moderation.errors import PostError
from moderation.kafka.post_producer import NotAcceptedError
from moderation.view.stores import StoreUnavailableError


class RefusalKind(Enum):
    """What a caller can do about a refusal."""

    INVALID = "change the request"
    UNAUTHENTICATED = "send credentials that are valid"
    FORBIDDEN = "use other credentials, or ask for something else"
    NOT_FOUND = "name something that exists"
    ALREADY_EXISTS = "use a new request id"
    PRECONDITION = "have the operator change the deployment"
    EXHAUSTED = "try again later, or send less"
    UNAVAILABLE = "send the same request again"
    TOO_SLOW = "send the request faster"
    UNIMPLEMENTED = "do without"
    INTERNAL = "report a defect"


class RefusedError(Exception):
    """A call that is refused. `reason` is an ErrorReason without its prefix. No field holds content of a post."""

    def __init__(
        self,
        kind: RefusalKind,
        reason: str,
        text: str,
        *,
        field: str = "",
        retry_s: float | None = None,
        **metadata: str,
    ) -> None:
        """`field`: the field of the request that breaks a rule. `retry_s`: seconds after which a retry makes sense."""
        super().__init__(text)
        self.kind = kind
        self.reason = reason
        self.field = field
        self.retry_s = retry_s
        self.metadata = metadata


def invalid(field: str, problem: str) -> RefusedError:
    """A field breaks its rule."""
    return RefusedError(RefusalKind.INVALID, "INVALID_FIELD", f"{field} {problem}", field=field)


def unreadable(message: str) -> RefusedError:
    """The bytes of a request are not a message of this type."""
    return RefusedError(RefusalKind.INVALID, "INVALID_FIELD", f"the request is not a valid {message}")


def invalid_consistency_token() -> RefusedError:
    """A consistency token is malformed, or of another kind than the method takes."""
    text = "consistency_token is not a valid consistency token"
    return RefusedError(RefusalKind.INVALID, "INVALID_CURSOR", text, field="consistency_token")


def invalid_page_token() -> RefusedError:
    """A page token is malformed, or belongs to another query."""
    text = "page_token is not a valid page token of this query"
    return RefusedError(RefusalKind.INVALID, "INVALID_CURSOR", text, field="page_token")


def unauthenticated(text: str) -> RefusedError:
    """The credentials are missing, wrong or expired."""
    return RefusedError(RefusalKind.UNAUTHENTICATED, "UNAUTHENTICATED", text)


def forbidden(reason: str, text: str, *, field: str = "", **metadata: str) -> RefusedError:
    """The caller is known and may not do this."""
    return RefusedError(RefusalKind.FORBIDDEN, reason, text, field=field, retry_s=None, **metadata)


def exhausted(reason: str, text: str, retry_s: float) -> RefusedError:
    """There is no room now."""
    return RefusedError(RefusalKind.EXHAUSTED, reason, text, retry_s=retry_s)


def unavailable(reason: str, text: str, retry_s: float = 1.0) -> RefusedError:
    """The service cannot do this now. The same call again is safe."""
    return RefusedError(RefusalKind.UNAVAILABLE, reason, text, retry_s=retry_s)


def refusal_of(error: Exception) -> RefusedError | None:
    """The refusal that a call ends with for this error. None: the error is a defect, or ends the process."""
    if isinstance(error, RefusedError):
        return error
    if isinstance(error, PostError):
        problem, text = error.problem, f"{error.reason}: {error}"
        field = f"post.{problem.path}" if problem.path else "post"
        refused = RefusedError(RefusalKind.INVALID, "INVALID_POST", text, field=field, post_reason=str(problem.reason))
        if problem.detail:
            refused.metadata["post_detail"] = str(problem.detail)
        return refused
    if isinstance(error, NotAcceptedError):
        return unavailable("NOT_ACCEPTED", "the post may not have been accepted; the same call again is safe")
    if isinstance(error, StoreUnavailableError):
        return unavailable("STORE_UNAVAILABLE", "the view cannot be read at the moment; try again later")
    return None
