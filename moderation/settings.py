"""All settings, and the only reader of the environment: MODERATION_<GROUP>__<NAME>, as MODERATION_KAFKA__BOOTSTRAP.

MODERATION_MODEL is short for MODERATION_MODEL__NAME. A variable with the prefix that names no setting is an error, so
that a misspelt limit cannot leave its default in force.

Each setting is `basic` or `advanced`: a first deployment sets the basic ones. Its type or `unit` names its unit.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, model_validator
from pydantic.fields import FieldInfo

from moderation.errors import ConfigError

PREFIX = "MODERATION_"
TEST_PREFIX = "MODERATION_TEST_"  # variables that only the tests read
# With a symmetric algorithm, everybody who can check a token could also sign one.
ASYMMETRIC = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"})


@dataclass(frozen=True, slots=True)
class Unit:
    """Unit of a setting, as its documentation prints it."""

    name: str


def basic(default: Any, description: str, *, unit: str = "", **limits: Any) -> Any:
    """A setting that a first deployment sets. `moderation settings` lists it."""
    return Field(default, description=description, json_schema_extra={"unit": unit, "tier": "basic"}, **limits)


def advanced(default: Any, description: str, *, unit: str = "", shown: str = "", **limits: Any) -> Any:
    """Any other setting. `shown`: the default in words, if it depends on the machine."""
    extra: dict[str, Any] = {"unit": unit, "tier": "advanced", "shown": shown}
    return Field(default, description=description, json_schema_extra=extra, **limits)


def _split_paths(value: object) -> object:
    return tuple(part for part in value.split(os.pathsep) if part) if isinstance(value, str) else value


Paths = Annotated[tuple[Path, ...], BeforeValidator(_split_paths)]
Name = Annotated[str, Field(min_length=1)]
Security = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Count = Annotated[int, Field(ge=1)]
CountOrZero = Annotated[int, Field(ge=0)]
Posts = Annotated[int, Field(ge=1), Unit("posts")]
Calls = Annotated[int, Field(ge=1), Unit("calls")]
CallRate = Annotated[float, Field(ge=0), Unit("calls per second")]
Ratio = Annotated[float, Field(ge=0, le=1), Unit("ratio, 0 to 1")]
Bytes = Annotated[int, Field(ge=1), Unit("bytes")]
BytesOrZero = Annotated[int, Field(ge=0), Unit("bytes")]
Pixels = Annotated[int, Field(ge=1), Unit("pixels")]
Seconds = Annotated[float, Field(gt=0), Unit("seconds")]
SecondsOrZero = Annotated[float, Field(ge=0), Unit("seconds")]
Milliseconds = Annotated[int, Field(ge=1_000), Unit("milliseconds")]


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class KafkaSettings(_Group):
    """Kafka: brokers, topics, delivery."""

    bootstrap: str = basic("localhost:9092", "host:port of one or more brokers, separated by commas")
    posts_topic: Name = basic("posts", "topic that posts are read from")
    verdicts_topic: Name = basic("verdicts", "topic that verdicts are written to; needs as many partitions as posts")
    dead_letter_topic: str = advanced("", "topic for posts that cannot be judged; default: `<posts>.<group>.dlq`")
    group: Name = advanced("moderation", "consumer group, and prefix of the transactional ids")
    delivery: Literal["exactly_once", "at_least_once"] = advanced(
        "exactly_once", "at_least_once is for brokers without transactions: a crash may repeat verdicts"
    )
    verdict_format: Literal["json", "protobuf"] = advanced("json", "format of the verdicts on their topic")
    connect_timeout_s: Seconds = advanced(60.0, "a starting process tries to reach the brokers for this long")
    transaction_timeout_ms: Milliseconds = advanced(30_000, "the broker aborts an open transaction after this time")
    session_timeout_ms: Milliseconds = advanced(30_000, "the group removes a silent worker after this time")
    rebalance_timeout_ms: Milliseconds = advanced(120_000, "a worker may drain for this long in a rebalance")
    max_message_bytes: Bytes = advanced(20 << 20, "largest record to read or write, and limit of the topics", ge=1024)
    max_dead_letter_bytes: Bytes = advanced(1 << 20, "largest part of a record that its dead letter keeps", ge=1024)
    security_protocol: Security = basic("PLAINTEXT", "security protocol of the brokers")
    ssl_ca: Path | None = advanced(None, "PEM file of the CA that signed the brokers' certificates")
    ssl_certificate: Path | None = advanced(None, "PEM file of the client certificate, for mTLS")
    ssl_key: Path | None = advanced(None, "PEM file of the client key, for mTLS")
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = advanced("SCRAM-SHA-512", "SASL mechanism")
    sasl_username: str = advanced("", "user name for SASL")
    sasl_password: SecretStr = advanced(SecretStr(""), "password for SASL")

    @model_validator(mode="after")
    def _topics_differ(self) -> Self:
        if len({self.posts_topic, self.verdicts_topic, self.dead_letters}) < 3:
            raise ValueError("posts_topic, verdicts_topic and dead_letter_topic must be three different topics")
        return self

    @property
    def dead_letters(self) -> str:
        """Name of the dead-letter topic."""
        return self.dead_letter_topic or f"{self.posts_topic}.{self.group}.dlq"


class ModelSettings(_Group):
    """Model: the checkpoint, and how it runs."""

    name: Name = basic(
        "microsoft/Phi-3-vision-128k-instruct", "hub id, folder, 'demo' or 'fake'; MODERATION_MODEL sets it too"
    )
    revision: str | None = basic(None, "commit or tag of the hub id; pin it in production")
    digest: str = advanced(
        "", "digest of the checkpoint (`moderation model info`); empty: any", pattern="^([0-9a-f]{64})?$"
    )
    device: Literal["auto", "cpu", "cuda"] = advanced("auto", "auto: CUDA if there is a GPU")
    dtype: Literal["auto", "float32", "bfloat16"] = advanced(
        "auto", "auto: bfloat16 on CUDA, float32 on a CPU; bfloat16 is faster on a CPU with AMX"
    )
    compile: bool = advanced(False, "whether torch compiles the decoder; a start then takes minutes longer")
    fp8: bool = advanced(False, "whether the decoder runs in 8 bits (GPU only); the log says how far scores move")
    num_crops: int | None = advanced(None, "crops or tiles of an image; default: its own", unit="crops", ge=1, le=64)
    feature_cache_bytes: BytesOrZero = advanced(256 << 20, "device memory for features of known pictures; 0: no cache")
    window_tokens: int = advanced(2048, "a longer text is scored in windows of this size", unit="tokens", ge=64)
    window_overlap: CountOrZero = advanced(256, "overlap of two neighbouring windows", unit="tokens")
    max_windows: Count = advanced(16, "a post that needs more windows is refused", unit="windows")

    @model_validator(mode="after")
    def _overlap_is_smaller(self) -> Self:
        if self.window_overlap * 2 > self.window_tokens:
            raise ValueError("window_overlap must be at most half of window_tokens")
        return self


class MediaSettings(_Group):
    """Media: limits of a post's text and images."""

    max_side: ClassVar[int] = 20_000  # pixels; an image with a longer side is refused
    max_aspect: ClassVar[float] = 100.0  # longest side over shortest

    roots: Paths = basic((), "folders that file:// references may point into, separated by ':'")
    max_text_chars: Count = advanced(100_000, "longest text of a post", unit="characters")
    max_images: CountOrZero = advanced(8, "a post with more images is refused", unit="images")
    max_bytes: Bytes = advanced(16 << 20, "largest image file")
    max_pixels: Pixels = advanced(40_000_000, "largest image, as width times height")
    max_post_pixels: Pixels = advanced(100_000_000, "largest sum over the pictures of a post that are judged")
    max_decoded_bytes: Bytes = advanced(2 << 30, "memory for decoded pictures; a larger post is decoded alone")
    max_frames: Count = advanced(4, "frames of an animation that are judged, evenly spread", unit="frames")
    posts_at_once: Posts = advanced(4, "posts whose images are read at the same time")
    timeout_s: Seconds = advanced(60.0, "a post whose images take longer to read becomes a dead letter")


class WorkerSettings(_Group):
    """Worker: batches, limits, deadlines."""

    batch_tokens: Count = advanced(8192, "token budget of a batch, image encoding included", unit="tokens")
    overtake_s: SecondsOrZero = advanced(
        10.0, "batches are filled oldest first; of a post's wait in Kafka, at most this time counts towards its age"
    )
    max_in_flight: Posts = advanced(256, "posts in progress in this process; at most half of them of one partition")
    max_in_flight_bytes: Bytes = advanced(
        256 << 20, "polling stops at this size of the records in progress; a single larger record is still processed"
    )
    verdict_cache_posts: CountOrZero = advanced(10_000, "verdicts that each partition caches", unit="posts")
    verdict_cache_bytes: BytesOrZero = advanced(16 << 20, "memory for the cached verdicts of each partition")
    encode_threads: Count = advanced(
        max(1, (os.cpu_count() or 1) - 1), "threads that encode posts", unit="threads", shown="CPU cores - 1"
    )
    encode_timeout_s: Seconds = advanced(60.0, "a post that takes longer to encode becomes a dead letter")
    step_timeout_s: Seconds = advanced(300.0, "if a batch takes longer, the device is broken and the worker exits")
    post_timeout_s: Seconds = advanced(
        900.0, "longest time from poll to commit; then the worker exits, and Kafka delivers the post again"
    )
    failed_posts: Posts = advanced(
        5, "if so many posts fail in a row, a post that succeeded is scored again; at 4 times as many, the worker exits"
    )
    failed_post_s: Seconds = advanced(2.0, "a failed post waits this long for a success, then becomes a dead letter")
    self_check_s: SecondsOrZero = advanced(60.0, "time between two self-checks; 0: only after a failed batch")
    drain_timeout_s: Seconds = advanced(60.0, "a stopping worker finishes its posts for at most this long")

    @property
    def max_partition_in_flight(self) -> int:
        """Posts in progress of one partition: half of all, so that one partition leaves room for the others."""
        return max(1, self.max_in_flight // 2)


class ApiSettings(_Group):
    """API: listening, view, limits of calls."""

    watch_buffer: ClassVar[int] = 10_000  # changes held for a watch; a watch that falls further behind ends
    watch_stall_s: ClassVar[float] = 30.0  # a watch that accepts no message for this long ends

    listen: str = basic("127.0.0.1:50051", "host:port of the gRPC server; port 0: a free one, which is logged")
    health_listen: str = advanced("", "host:port for health checks only, without TLS; they are then never refused")
    view: Path = basic(Path("~/.local/state/moderation/verdicts.sqlite"), "SQLite file of the view of the verdicts")
    view_database: SecretStr = basic(SecretStr(""), "postgresql:// URL to keep the view in, in place of the file")
    view_start_s: Seconds = advanced(60.0, "a starting API waits this long for its view, then exits with code 2")
    view_max_bytes: BytesOrZero = advanced(16 << 30, "limit of the SQLite files: oldest posts are deleted; 0: no limit")
    recent_bytes: BytesOrZero = advanced(128 << 20, "memory for the newest verdicts, in front of the view")
    retention_days: float = advanced(0.0, "the view removes posts of this age; 0: never", unit="days", ge=0)
    max_lag: CountOrZero = advanced(10_000, "health is NOT_SERVING at this lag behind the topic", unit="records")
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


class AuthSettings(_Group):
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


class ClientSettings(_Group):
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


class OpsSettings(_Group):
    """Ops: metrics and probes."""

    listen: str = basic("", "host:port for /metrics, /livez, /readyz and /startupz of a role; empty: none")
    loop_timeout_s: Seconds = advanced(30.0, "/livez fails when the event loop was blocked for this long")


class TracesSettings(_Group):
    """Traces: needs the extra `otel`."""

    endpoint: str = advanced("", "URL of an OpenTelemetry collector (OTLP over HTTP); empty: no traces")
    sample_ratio: Ratio = advanced(0.05, "share of posts and calls traced, where the caller did not decide")

    @model_validator(mode="after")
    def _is_http(self) -> Self:
        if self.endpoint and not self.endpoint.startswith(("http://", "https://")):
            raise ValueError("endpoint must be an http or https URL")
        return self


class LogSettings(_Group):
    """Log: level and format."""

    level: Literal["debug", "info", "warning", "error"] = basic("info", "debug logs each post and its outcome")
    format: Literal["auto", "json", "console"] = advanced("auto", "auto: console on a terminal, else JSON")
    raw: bool = advanced(False, "whether output of C and Rust libraries passes unchanged, texts of posts included")


class Settings(_Group):
    """General."""

    policies: Path = basic(Path("policies"), "folder of the policy set")
    kafka: KafkaSettings = KafkaSettings()
    model: ModelSettings = ModelSettings()
    media: MediaSettings = MediaSettings()
    worker: WorkerSettings = WorkerSettings()
    api: ApiSettings = ApiSettings()
    auth: AuthSettings = AuthSettings()
    client: ClientSettings = ClientSettings()
    ops: OpsSettings = OpsSettings()
    traces: TracesSettings = TracesSettings()
    log: LogSettings = LogSettings()

    @model_validator(mode="after")
    def _post_timeout_is_longest(self) -> Self:
        steps = self.worker.step_timeout_s, self.worker.encode_timeout_s, 2 * self.media.timeout_s
        if self.worker.post_timeout_s <= sum(steps):
            raise ValueError(
                f"{PREFIX}WORKER__POST_TIMEOUT_S must be longer than {sum(steps):g} s, the sum of the deadlines of a "
                "post (step_timeout_s, encode_timeout_s, twice media.timeout_s): else a worker exits while it waits"
            )
        return self


def load(environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings of this process. Raises ConfigError naming each variable that is wrong, never its value."""
    values: dict[str, Any] = {}
    for variable, value in environment.items():
        if not variable.startswith(PREFIX) or variable.startswith(TEST_PREFIX):
            continue
        path = variable.removeprefix(PREFIX).lower().split("__")
        if path == ["model"]:
            path = ["model", "name"]
        group = values
        for name in path[:-1]:
            group = group.setdefault(name, {})
            if not isinstance(group, dict):
                raise ConfigError(f"{variable}: {PREFIX}{'__'.join(path[:-1]).upper()} is one value, not a group")
        if path[-1] in group:
            raise ConfigError(f"{variable} is set twice, under two names: keep one of them")
        group[path[-1]] = value
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(error))) from None


def fields() -> Iterator[tuple[str, type[BaseModel], FieldInfo]]:
    """(variable, group, field) of every setting, group by group."""
    for name, field in Settings.model_fields.items():
        if isinstance(field.default, _Group):
            group = type(field.default)
            yield from ((f"{PREFIX}{name}__{leaf}".upper(), group, inner) for leaf, inner in group.model_fields.items())
        else:
            yield f"{PREFIX}{name}".upper(), Settings, field


def _explain(error: ValidationError) -> Iterator[str]:
    names = ["MODEL", *(variable.removeprefix(PREFIX) for variable, _, _ in fields())]  # all have the prefix
    for problem in error.errors(include_url=False, include_input=False, include_context=False):
        variable = PREFIX + "__".join(str(part) for part in problem["loc"]).upper()
        message = problem["msg"].removeprefix("Value error, ")
        if problem["type"] == "extra_forbidden":
            close = difflib.get_close_matches(variable.removeprefix(PREFIX), names, n=1)
            hint = f"did you mean {PREFIX}{close[0]}?" if close else "`moderation settings --all` lists all settings"
            yield f"{variable}: there is no such setting; {hint}"
        elif not problem["loc"]:  # a rule over several groups: its message names the variable
            yield message
        else:
            yield f"{variable}: {message}"
