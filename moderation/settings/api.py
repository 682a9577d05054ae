"""Settings of the API, of those who may call it, and of its client."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal, Self

from pydantic import SecretStr, model_validator

from moderation.settings.kinds import (
    Bytes,
    BytesOrZero,
    CallRate,
    Calls,
    Count,
    CountOrZero,
    Group,
    Name,
    Posts,
    Seconds,
    SecondsOrZero,
    advanced,
    basic,
)

# With a symmetric algorithm, everybody who can check a token could also sign one.
ASYMMETRIC = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"})


class ApiSettings(Group):
    """API: listening, view, limits of calls."""

    watch_buffer: ClassVar[int] = 10_000  # changes held for a watch; a watch that falls further behind ends
    watch_stall_s: ClassVar[float] = 30.0  # a watch that accepts no message for this long ends

    listen: str = basic("127.0.0.1:50051", "host:port of the gRPC server; port 0: a free one, which is logged")
    health_listen: str = advanced("", "host:port for health checks only, without TLS; they are then never refused")
    view: Path | None = basic(
        None, "SQLite file of the view; default: one for each bootstrap and topic in ~/.local/state/moderation"
    )
    view_database: SecretStr = basic(SecretStr(""), "postgresql:// URL to keep the view in, in place of the file")
    view_start_s: Seconds = advanced(60.0, "a starting API waits this long for its view, then exits with code 2")
    view_max_bytes: BytesOrZero = advanced(16 << 30, "limit of the SQLite files: oldest posts are deleted; 0: no limit")
    recent_bytes: BytesOrZero = advanced(128 << 20, "memory for the newest verdicts, in front of the view")
    retention_days: float = advanced(0.0, "the view removes posts of this age; 0: never", unit="days", ge=0)
    max_lag: CountOrZero = advanced(10_000, "health is NOT_SERVING at this lag behind what can be read", unit="records")
    max_lag_unknown_s: SecondsOrZero = advanced(300.0, "health allows an unknown lag for this long; 0: for ever")
    max_wait_s: Seconds = advanced(60.0, "longest wait for a verdict in one call")
    max_queued_calls: Calls = advanced(
        1_000, "calls that wait to be read. Above this number gRPC drops some; above twice this number, all"
    )
    max_concurrent_calls: Calls = advanced(256, "lookups at once; more get RESOURCE_EXHAUSTED")
    max_waits: Calls = advanced(4_000, "WaitVerdict and ModeratePost calls at once; more get RESOURCE_EXHAUSTED")
    max_watches: Count = advanced(200, "WatchVerdicts streams at once; more are refused", unit="streams")
    calls_per_second: CallRate = advanced(0.0, "limit of one caller; a batch counts once per 100 ids; 0: no limit")
    max_connection_calls: Calls = advanced(500, "calls at once on one connection; clients queue the rest")
    max_connections: Count = advanced(1_000, "connections at once; fewer if files are limited", unit="connections")
    max_peer_connections: CountOrZero = advanced(100, "connections from one address; 0: no limit", unit="connections")
    unauthenticated_timeout_s: Seconds = advanced(20.0, "an unauthenticated connection is closed after this time")
    max_body_bytes: Bytes = advanced(
        240 << 20, "memory for requests being read. Half is for posts. Each request reserves the largest message size"
    )
    body_timeout_s: Seconds = advanced(15.0, "longest time for a request to arrive; a lookup has at most 5 s")
    watch_s: Seconds = advanced(3_600.0, "longest life of a watch; the client then continues from its last token")
    max_pending_posts: Posts = advanced(10_000, "submitted posts without verdict; more are refused")
    max_submit_bytes: Bytes = advanced(64 << 20, "memory for posts on their way to the topic; each counts three times")
    show_prompts: bool = advanced(False, "whether ListPolicies returns the text that the model reads")
    reflection: Literal["auto", "on", "off"] = advanced("auto", "auto: on if the API needs no credentials")
    keepalive_s: Seconds = advanced(60.0, "time between pings on an idle connection; set it below a balancer's limit")
    connection_age_s: SecondsOrZero = advanced(600.0, "clients reconnect at this age, to spread them; 0: never")
    drain_delay_s: SecondsOrZero = advanced(2.0, "a stopping API takes calls for this long, until balancers notice")
    drain_timeout_s: Seconds = advanced(10.0, "a stopping API then finishes its calls for at most this long")


class AuthSettings(Group):
    """Auth: who may call the API."""

    tls_certificate: Path | None = basic(None, "PEM file of the API's certificate chain; read again when it changes")
    tls_key: Path | None = basic(None, "PEM file of the API's key")
    tls_client_ca: Path | None = advanced(None, "PEM file of the CA that signs client certificates (mTLS)")
    tls_client_names: str = advanced("", "SANs that may call, separated by commas; empty: all that the CA signs")
    jwt_keys: str = advanced("", "file (PEM or JWKS) or https URL (JWKS) of the keys that sign bearer tokens")
    jwt_algorithms: str = advanced("RS256,ES256,EdDSA", "accepted signatures of tokens; asymmetric ones only")
    jwt_audience: str = advanced("", "aud that a token must have; required with jwt_keys")
    jwt_issuer: str = advanced("", "iss that a token must have; required with jwt_keys")
    jwt_tenant_claim: Name = advanced("tenant", "claim that binds a caller to one tenant")
    jwt_refresh_s: Seconds = advanced(300.0, "time between two readings of the keys")
    jwt_keys_max_age_s: Seconds = advanced(86_400.0, "keys that could not be read again expire after this time")
    tenant_required: bool = advanced(False, "whether a token without a tenant is refused")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        asymmetric = self.algorithms and set(self.algorithms) <= ASYMMETRIC
        rules = (
            ((self.tls_certificate is None) == (self.tls_key is None), "tls_certificate and tls_key belong together"),
            (not self.tls_client_ca or self.tls_certificate, "tls_client_ca needs tls_certificate and tls_key"),
            (not self.tls_client_names or self.tls_client_ca, "tls_client_names needs tls_client_ca"),
            (not self.jwt_keys or self.jwt_audience, "jwt_keys needs jwt_audience and jwt_issuer"),
            (not self.jwt_keys or self.jwt_issuer, "jwt_keys needs jwt_audience and jwt_issuer"),
            (self.jwt_keys_max_age_s > self.jwt_refresh_s, "jwt_keys_max_age_s must be above jwt_refresh_s"),
            (not self.tenant_required or self.jwt_keys, "tenant_required needs jwt_keys: tenants come from tokens"),
            (not self.jwt_keys.startswith("http:"), "jwt_keys must not be an http URL: use https, or a file"),
            (asymmetric, f"jwt_algorithms must be among {', '.join(sorted(ASYMMETRIC))}"),
        )
        for kept, rule in rules:
            if not kept:
                raise ValueError(rule)
        return self

    @property
    def algorithms(self) -> tuple[str, ...]:
        """Accepted signature algorithms of tokens."""
        return tuple(part.strip() for part in self.jwt_algorithms.split(",") if part.strip())

    @property
    def client_names(self) -> frozenset[str]:
        """Subject alternative names that may call; empty: all that the CA signs."""
        return frozenset(part.strip() for part in self.tls_client_names.split(",") if part.strip())

    @property
    def open(self) -> bool:
        """Whether everybody may call."""
        return not (self.tls_client_ca or self.jwt_keys)


class ClientSettings(Group):
    """Client: how submit, get and watch reach the API."""

    ca: Path | None = advanced(None, "PEM file of the CA that signed the API's certificate; turns TLS on")
    certificate: Path | None = advanced(None, "PEM file of the client certificate chain, for mTLS")
    key: Path | None = advanced(None, "PEM file of the client key, for mTLS")
    token_file: Path | None = advanced(None, "file with a bearer token; read for each call")
    tenant: str | None = advanced(None, "tenant whose posts are meant; default: the token's tenant, or all tenants")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key must be set together")
        return self
