"""Who calls, and what the caller may do: client certificates, bearer tokens, scopes, tenants, rates.

Nothing here knows a transport: an edge passes what a caller has presented as `Credentials`. Without client certificates
and without keys for bearer tokens the API is open. Every caller may then do everything, and something in front of the
API has to authenticate callers in its place.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jwt
from cachetools import LRUCache

from moderation.api import validation
from moderation.api.errors import exhausted, forbidden, unauthenticated, unavailable
from moderation.api.keys import Keys
from moderation.settings import AuthSettings

READ, LIST, WRITE, POLICIES = "verdicts:read", "verdicts:list", "posts:write", "policies:read"
# The scope that each method needs. A test compares this with the proto: a method that is not here cannot be called.
SCOPES = {
    "GetVerdict": READ,
    "BatchGetVerdicts": READ,
    "WaitVerdict": READ,
    "WatchVerdicts": READ,
    "ListVerdicts": LIST,
    "ModeratePost": WRITE,
    "ListPolicies": POLICIES,
}

MAX_BEARER_CHARS = 8_192
MAX_CACHED = 10_000  # bearer tokens, and callers whose rate is counted
KEYS_RETRY_S = 30.0
LEEWAY_S = 30.0  # by which two clocks may differ


class Credentials(NamedTuple):
    """What a caller has presented, as its edge read it."""

    address: str  # of the caller, without a port
    certificate_names: Sequence[str] = ()  # of a client certificate that was verified
    authorization: Sequence[str | bytes] = ()  # the values of all authorization headers


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls."""

    name: str
    tenant: str | None = None  # None: any
    scopes: frozenset[str] | None = None  # None: all
    until: float = float("inf")  # seconds since the epoch, when the bearer token expires

    def tenant_of(self, requested: str | None) -> str | None:
        """The tenant whose posts a query is about; None: any tenant's. Raises RefusedError."""
        if requested is not None and (problem := validation.tenant_problem(requested)):
            raise problem
        if self.tenant is None or requested == self.tenant:
            return requested
        if requested is None:
            return self.tenant
        raise forbidden("OTHER_TENANT", "tenant is not the tenant of the caller")


class Permit:
    """A call that was admitted. It stays valid while the caller's credentials do."""

    __slots__ = ("_authenticator", "_credentials", "_edition", "caller", "owner")

    def __init__(self, authenticator: Authenticator, credentials: Credentials, caller: Caller) -> None:
        self.caller = caller
        self.owner = caller.name or credentials.address  # under which the caller's shares and rate are counted
        self._authenticator = authenticator
        self._credentials = credentials
        self._edition = authenticator.edition

    def check(self) -> None:
        """Checks the credentials again if the keys have changed or expired since. Raises RefusedError."""
        self._edition = self._authenticator.check(self._credentials, self._edition)

    def spend(self, calls: float) -> None:
        """Counts further calls of this caller. Raises RefusedError when the caller's rate is exceeded."""
        self._authenticator.spend(self.owner, calls)


class Authenticator:
    """Admits callers by their credentials."""

    def __init__(self, settings: AuthSettings, calls_per_second: float) -> None:
        """`calls_per_second`: of one caller; 0: no limit."""
        self._settings = settings
        self._rate = calls_per_second
        self._names = settings.client_names
        self._callers: LRUCache[str, Caller] = LRUCache(MAX_CACHED)  # by bearer token
        self._callers_edition = 0  # of the keys that the cached tokens were checked with
        self._buckets: LRUCache[str, tuple[float, float]] = LRUCache(MAX_CACHED)  # by owner: calls left, as of when
        self.keys = Keys(settings) if settings.jwt_keys else None
        self.needs_certificates = settings.tls_client_ca is not None  # whether names of client certificates matter
        self.needs_bearers = self.keys is not None  # whether authorization headers matter

    @property
    def edition(self) -> int:
        """Number of the current set of keys; it changes with the keys."""
        return self.keys.edition if self.keys else 0

    def admit(self, credentials: Credentials, method: str, calls: float = 1.0) -> Permit:
        """Admits a call of this method. `calls`: how many calls it counts as. Raises RefusedError."""
        permit = Permit(self, credentials, self.identify(credentials))
        scopes, scope = permit.caller.scopes, SCOPES[method]
        if scopes is not None and scope not in scopes:
            raise forbidden("MISSING_SCOPE", f"the credentials lack the scope {scope}", scope=scope)
        self.spend(permit.owner, calls)
        return permit

    def identify(self, credentials: Credentials) -> Caller:
        """The caller, for what needs no scope. Raises RefusedError: unauthenticated, or unavailable for now."""
        names = credentials.certificate_names if self.needs_certificates else ()
        if self.needs_certificates and self._names and self._names.isdisjoint(names):
            raise unauthenticated("the client certificate has no allowed name")
        if self.keys is None:
            return Caller(names[0]) if names else ANYONE
        bearer = _bearer(credentials.authorization)
        if self.keys.expired:
            text = "the signing keys are too old, because they could not be read; try again later"
            raise unavailable("NOT_READY", text, KEYS_RETRY_S)
        if self._callers_edition != self.keys.edition:  # a withdrawn key invalidates its tokens
            self._callers.clear()
            self._callers_edition = self.keys.edition
        caller = self._callers.get(bearer)
        if caller is None:
            caller = self._callers[bearer] = self._verified(bearer, self.keys)
        if caller.until < time.time():
            raise unauthenticated("the bearer token has expired")
        return caller

    def check(self, credentials: Credentials, edition: int) -> int:
        """Checks the credentials of a call again if the keys are not those of this edition any more, or too old.

        Returns the current edition of the keys. Raises RefusedError.
        """
        if self.keys is None:
            return edition
        if edition != self.keys.edition or self.keys.expired:
            self.identify(credentials)
        return self.keys.edition

    def spend(self, owner: str, calls: float) -> None:
        """Counts calls of an owner. Raises RefusedError when the rate is exceeded.

        Each owner has a bucket that holds the calls of one second and is filled at the rate.
        """
        if not self._rate:
            return
        now = time.monotonic()
        left, at = self._buckets.get(owner, (self._rate, now))
        left = min(self._rate, left + (now - at) * self._rate)
        missing = min(calls, self._rate) - left
        self._buckets[owner] = (left if missing > 0 else -missing), now
        if missing > 0:
            raise exhausted("RATE_LIMITED", "this caller makes too many calls; try again later", missing / self._rate)

    def _verified(self, bearer: str, keys: Keys) -> Caller:
        settings = self._settings
        try:
            if len(bearer) > MAX_BEARER_CHARS:
                raise jwt.InvalidTokenError
            key = keys.find(jwt.get_unverified_header(bearer).get("kid"))
            if key is None:
                raise unauthenticated("the key of the bearer token is not known")
            claims = jwt.decode(
                bearer,
                key,
                algorithms=list(settings.algorithms),
                audience=settings.jwt_audience,
                issuer=settings.jwt_issuer,
                leeway=LEEWAY_S,
                options={"require": ["exp", "aud", "iss"], "strict_aud": False},
            )
            return self._caller_of(claims)
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
            # Without a cause: a caller without a valid token must not learn which check failed.
            raise unauthenticated("the bearer token is not valid") from None

    def _caller_of(self, claims: dict[str, Any]) -> Caller:
        scopes = claims.get("scope", claims.get("scp", ""))
        tenant = claims.get(self._settings.jwt_tenant_claim)
        if not isinstance(tenant, str | None) or (tenant is None and self._settings.tenant_required):
            raise ValueError("the tenant claim is missing or is not a string")
        words = scopes.split() if isinstance(scopes, str) else [str(scope) for scope in scopes]
        return Caller(str(claims.get("sub", "")), tenant, frozenset(words), float(claims["exp"]) + LEEWAY_S)


ANYONE = Caller("")


def _bearer(authorization: Sequence[str | bytes]) -> str:
    """The only bearer token. Raises RefusedError."""
    value = authorization[0] if len(authorization) == 1 else None
    if not isinstance(value, str) or value[:7].lower() != "bearer ":
        raise unauthenticated("exactly one authorization header with a bearer token is needed")
    return value[7:].strip()
