"""Who is calling, and what they may: TLS and client certificates, bearer tokens, scopes, tenants, rates.

Without certificates of clients and without keys for tokens the API is open: then everybody may everything, and it
belongs behind something that does this in its place.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import jwt

from moderation.api import validation
from moderation.api.grpc.status import RefusedError, exhausted, unavailable
from moderation.api.keys import Keys
from moderation.settings import AuthSettings

READ, LIST, WRITE, POLICIES = "verdicts:read", "verdicts:list", "posts:write", "policies:read"
# What each method needs. A test holds it to the proto: a method that is not here cannot be called.
SCOPES = {
    "GetVerdict": READ,
    "BatchGetVerdicts": READ,
    "WaitVerdict": READ,
    "WatchVerdicts": READ,
    "ListVerdicts": LIST,
    "ModeratePost": WRITE,
    "ListPolicies": POLICIES,
}

MAX_TOKEN_CHARS = 8_192
REMEMBERED = 10_000  # tokens and callers
KEYS_RETRY_S = 30.0
LEEWAY_S = 30.0  # that two clocks may differ

Context = grpc.aio.ServicerContext[Any, Any]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is calling."""

    name: str
    tenant: str | None = None  # None: any
    scopes: frozenset[str] | None = None  # None: all
    until: float = float("inf")  # when the token expires

    def tenant_of(self, asked: str | None) -> str | None:
        """Whose posts a query is about, of those that the caller may see; None: anybody's. Raises RefusedError."""
        if asked is not None and (problem := validation.tenant_problem(asked)):
            raise problem
        if self.tenant is None or asked == self.tenant:
            return asked
        if asked is None:
            return self.tenant
        raise RefusedError(grpc.StatusCode.PERMISSION_DENIED, "OTHER_TENANT", "tenant is another than the caller's")


class Authenticator:
    """Decides over each call before anything else does."""

    def __init__(self, settings: AuthSettings, calls_per_second: float) -> None:
        self._settings = settings
        self._rate = calls_per_second
        self._names = settings.client_names
        self._known: OrderedDict[str, Caller] = OrderedDict()  # by token
        self._edition = 0  # of the keys that they were checked with
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # by caller: calls left, as of when
        self.keys = Keys(settings) if settings.jwt_keys else None

    def admit(self, context: Context, method: str, cost: float = 1.0) -> Caller:
        """The caller, who may call this method now. Raises RefusedError."""
        caller = self._caller(context)
        scope = SCOPES[method]
        if caller.scopes is not None and scope not in caller.scopes:
            text = f"the credentials lack the scope {scope}"
            raise RefusedError(grpc.StatusCode.PERMISSION_DENIED, "MISSING_SCOPE", text, scope=scope)
        self.spend(caller, context, cost)
        return caller

    def identify(self, context: Context) -> Caller:
        """The caller, for what needs no scope. Raises RefusedError: UNAUTHENTICATED, or UNAVAILABLE for now."""
        return self._caller(context)

    def spend(self, caller: Caller, context: Context, cost: float) -> None:
        """Counts so many calls of this caller. Raises RefusedError: they are too many for now."""
        if self._rate:
            self._spend(caller.name or _host(context), cost)

    def _caller(self, context: Context) -> Caller:
        names: Sequence[str] = ()
        if self._settings.tls_client_ca:
            names = [name.decode("utf-8", "replace") for name in context.peer_identities() or ()]
            if self._names and self._names.isdisjoint(names):
                raise unauthenticated("the client certificate's names are not among those that may call")
        if self.keys is None:
            return Caller(names[0]) if names else ANYONE
        given = [value for name, value in context.invocation_metadata() or () if name == "authorization"]
        if len(given) != 1 or not isinstance(given[0], str) or given[0][:7].lower() != "bearer ":
            raise unauthenticated("one authorization header with a bearer token is needed")
        token = given[0][7:].strip()
        if self.keys.expired:
            text = "the keys of bearer tokens could not be read for too long; try again later"
            raise unavailable("NOT_READY", text, KEYS_RETRY_S)
        if self._edition != self.keys.edition:  # a key that is withdrawn takes its tokens with it
            self._known.clear()
            self._edition = self.keys.edition
        caller = self._known.get(token)
        if caller is None:
            caller = self._known[token] = self._read(token, self.keys)
            if len(self._known) > REMEMBERED:
                self._known.popitem(last=False)
        if caller.until < time.time():
            raise unauthenticated("the token has expired")
        return caller

    def check(self, context: Context, edition: int) -> int:
        """Checks the caller of a long call again, when the keys are others than those of this edition, or too old.

        Returns the edition of the keys now. Raises RefusedError.
        """
        if self.keys is None:
            return edition
        if edition != self.keys.edition or self.keys.expired:
            self._caller(context)
        return self.keys.edition

    @property
    def edition(self) -> int:
        """Of the keys that callers are checked with now."""
        return self.keys.edition if self.keys else 0

    def _read(self, token: str, keys: Keys) -> Caller:
        settings = self._settings
        try:
            if len(token) > MAX_TOKEN_CHARS:
                raise jwt.InvalidTokenError
            key = keys.find(jwt.get_unverified_header(token).get("kid"))
            if key is None:
                raise unauthenticated("the token's key is not known")
            claims = jwt.decode(
                token,
                key,
                algorithms=list(settings.algorithms),
                audience=settings.jwt_audience,
                issuer=settings.jwt_issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "aud", "iss"], "strict_aud": False},
            )
            return self._named(claims)
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
            # No cause, and no text: which of the checks failed is nobody's business who cannot pass them.
            raise unauthenticated("the token does not hold") from None

    def _named(self, claims: dict[str, Any]) -> Caller:
        scopes = claims.get("scope", claims.get("scp", ""))
        tenant = claims.get(self._settings.jwt_tenant_claim)
        if not isinstance(tenant, str | None) or (tenant is None and self._settings.tenant_required):
            raise ValueError("its tenant")
        words = scopes.split() if isinstance(scopes, str) else [str(scope) for scope in scopes]
        return Caller(str(claims.get("sub", "")), tenant, frozenset(words), float(claims["exp"]) + LEEWAY_S)

    def _spend(self, name: str, cost: float) -> None:
        """A bucket of a second's calls, filled at that rate."""
        now = time.monotonic()
        left, at = self._buckets.pop(name, (self._rate, now))
        left = min(self._rate, left + (now - at) * self._rate)
        short = min(cost, self._rate) - left
        self._buckets[name] = (left if short > 0 else left - min(cost, self._rate)), now
        if len(self._buckets) > REMEMBERED:
            self._buckets.popitem(last=False)
        if short > 0:
            raise exhausted("RATE_LIMITED", "too many calls of this caller; try again later", short / self._rate)


ANYONE = Caller("")


def unauthenticated(text: str) -> RefusedError:
    """Who calls is not known, or not any more."""
    return RefusedError(grpc.StatusCode.UNAUTHENTICATED, "UNAUTHENTICATED", text)


def _host(context: Context) -> str:
    return str(context.peer()).rpartition(":")[0]
