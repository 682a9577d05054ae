"""Every knob, and the only reader of the environment: MODERATION_<GROUP>__<NAME>, as in MODERATION_KAFKA__BOOTSTRAP.

MODERATION_MODEL is short for MODERATION_MODEL__NAME. A variable with the prefix that names no knob is an error:
a misspelt limit must not leave its default in force unseen.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError, model_validator

from moderation.errors import ConfigError

PREFIX = "MODERATION_"
# With a symmetric one, whoever can check a token can make one.
ASYMMETRIC = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"})
NOT_OURS = "MODERATION_TEST_"  # what the tests read for themselves


def _split_paths(value: object) -> object:
    return tuple(part for part in value.split(os.pathsep) if part) if isinstance(value, str) else value


Paths = Annotated[tuple[Path, ...], BeforeValidator(_split_paths)]


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class KafkaSettings(_Group):
    """Where posts come from and verdicts go."""

    bootstrap: str = Field("localhost:9092", description="host:port of one or more brokers, separated by commas")
    posts_topic: str = Field("posts", min_length=1, description="topic that posts are read from")
    verdicts_topic: str = Field("verdicts", min_length=1, description="topic for verdicts; as many partitions as posts")
    dead_letter_topic: str = Field("", description="topic for unreadable posts; default <posts>.<group>.dlq")
    group: str = Field("moderation", min_length=1, description="consumer group, and prefix of the transactional ids")
    delivery: Literal["exactly_once", "at_least_once"] = Field(
        "exactly_once", description="at_least_once: for brokers without transactions; a crash may repeat verdicts"
    )
    verdict_format: Literal["json", "protobuf"] = Field("json", description="how verdicts are written")
    connect_timeout_s: float = Field(60.0, gt=0, description="how long to keep trying to reach the brokers at start")
    transaction_timeout_ms: int = Field(
        30_000, ge=1_000, description="after it the broker aborts a dead worker's batch"
    )
    session_timeout_ms: int = Field(30_000, ge=1_000, description="after it the group counts a silent worker as dead")
    rebalance_timeout_ms: int = Field(120_000, ge=1_000, description="how long a worker may drain in a rebalance")
    max_message_bytes: int = Field(20 << 20, ge=1024, description="largest record to read or write; the topics' too")
    max_dead_letter_bytes: int = Field(
        1 << 20, ge=1024, description="bytes of a record that its dead letter keeps; headers tell size and hash of all"
    )
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="PLAINTEXT, SSL, SASL_PLAINTEXT or SASL_SSL"
    )
    ssl_ca: Path | None = Field(None, description="file of the CA that signed the brokers' certificates")
    ssl_certificate: Path | None = Field(None, description="our certificate, for mTLS")
    ssl_key: Path | None = Field(None, description="our key, for mTLS")
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = Field(
        "SCRAM-SHA-512", description="PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512"
    )
    sasl_username: str = Field("", description="for SASL")
    sasl_password: SecretStr = Field(SecretStr(""), description="for SASL")

    @model_validator(mode="after")
    def _topics_differ(self) -> Self:
        if len({self.posts_topic, self.verdicts_topic, self.dead_letters}) < 3:
            raise ValueError("posts_topic, verdicts_topic and dead_letter_topic must be three topics")
        return self

    @property
    def dead_letters(self) -> str:
        """The dead-letter topic's name."""
        return self.dead_letter_topic or f"{self.posts_topic}.{self.group}.dlq"


class ModelSettings(_Group):
    """Which model judges, and on what."""

    name: str = Field(
        "microsoft/Phi-3-vision-128k-instruct", min_length=1, description="hub id, folder, 'demo' or 'fake'"
    )
    revision: str | None = Field(None, description="commit or tag of the hub id; pin it in production")
    digest: str = Field(
        "",
        pattern="^([0-9a-f]{64})?$",
        description="files' digest that `moderation model info` prints; a checkpoint with another one is refused",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="auto: CUDA where there is one")
    dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto",
        description="auto: bfloat16 on CUDA, float32 on CPU; one with AVX512-BF16 or AMX is faster in bfloat16",
    )
    compile: bool = Field(False, description="the decoder through torch's compiler; minutes more until ready")
    fp8: bool = Field(
        False, description="the decoder's matrices in 8 bits, on a GPU that multiplies them; logs how scores move"
    )
    num_crops: int | None = Field(None, ge=1, le=64, description="crop budget of an image; default the checkpoint's")
    feature_cache_bytes: int = Field(
        256 << 20, ge=0, description="device memory for features of pictures seen before; 0: none are kept"
    )
    window_tokens: int = Field(2048, ge=64, description="longer texts are scored in windows of so many tokens")
    window_overlap: int = Field(256, ge=0, description="tokens that two neighbouring windows share")
    max_windows: int = Field(16, ge=1, description="a text that takes more is refused as too long")

    @model_validator(mode="after")
    def _overlap_is_smaller(self) -> Self:
        if self.window_overlap * 2 > self.window_tokens:
            raise ValueError("window_overlap must be at most half of window_tokens")
        return self


class MediaSettings(_Group):
    """What a post may carry."""

    roots: Paths = Field((), description="folders that file:// references may point into, separated by ':'")
    max_text_chars: int = Field(100_000, ge=1, description="longest text of a post")
    max_images: int = Field(8, ge=0, description="most images of a post")
    max_bytes: int = Field(16 << 20, ge=1, description="largest image file")
    max_pixels: int = Field(40_000_000, ge=1, description="largest image: width times height")
    max_post_pixels: int = Field(100_000_000, ge=1, description="largest post: pixels of all pictures that are judged")
    max_side: int = Field(20_000, ge=1, description="longest side of an image, in pixels")
    max_aspect: float = Field(100.0, ge=1, description="longest side over shortest")
    max_decoded_bytes: int = Field(
        2 << 30, ge=1, description="decoded pictures under way, over all posts; a post with more goes alone"
    )
    max_frames: int = Field(4, ge=1, description="frames judged of an animation: the first and evenly spread ones")
    posts_at_once: int = Field(4, ge=1, description="posts whose images are read at the same time")
    timeout_s: float = Field(60.0, gt=0, description="a post whose images take longer to read becomes a dead letter")


class WorkerSettings(_Group):
    """How a worker paces itself."""

    batch_tokens: int = Field(
        8192,
        ge=1,
        description="tokens that a step is filled up to: of its posts, and what their pictures take besides, in tokens",
    )
    overtake_s: float = Field(
        10.0, ge=0, description="a post that waited in its topic goes before posts that came up to so much earlier"
    )
    max_in_flight: int = Field(256, ge=1, description="posts under way in this process, over all partitions")
    max_in_flight_bytes: int = Field(
        256 << 20, ge=1, description="bytes of their records; at it no more are polled, and a larger one goes alone"
    )
    max_partition_in_flight: int = Field(128, ge=1, description="posts under way of one partition")
    verdict_cache_posts: int = Field(
        10_000, ge=0, description="verdicts that each partition keeps, to answer a repeated post without the model"
    )
    verdict_cache_bytes: int = Field(16 << 20, ge=0, description="bytes of memory that they take in each partition")
    encode_threads: int = Field(max(1, (os.cpu_count() or 1) - 1), ge=1, description="threads that prepare posts")
    encode_timeout_s: float = Field(60.0, gt=0, description="a post that takes longer to prepare becomes a dead letter")
    step_timeout_s: float = Field(300.0, gt=0, description="a batch that takes longer: the device is sick, exit")
    post_timeout_s: float = Field(
        900.0,
        gt=0,
        description="seconds from a post's poll to its commit, after which the process ends and Kafka delivers again; "
        "longer than the deadlines on a post's way together",
    )
    failed_posts: int = Field(
        5,
        ge=1,
        description="different posts in a row that each make the model fail, alone, until an earlier good post is "
        "tried again; at four times as many the process exits",
    )
    failed_post_s: float = Field(
        2.0, gt=0, description="seconds that such a post waits for another to be scored before it is a dead letter"
    )
    self_check_s: float = Field(
        60.0, ge=0, description="seconds between two self-checks of the model; 0: only after a step that failed"
    )
    drain_timeout_s: float = Field(60.0, gt=0, description="how long a stopping worker finishes what it has begun")


class ApiSettings(_Group):
    """Lookups."""

    listen: str = Field("127.0.0.1:50051", description="host:port to serve gRPC on; port 0 picks one and logs it")
    health_listen: str = Field(
        "", description="host:port that answers health checks alone, in the clear: probes are then never shed"
    )
    view: Path = Field(
        Path("~/.local/state/moderation/verdicts.sqlite"), description="file of the view of the verdicts topic"
    )
    view_database: SecretStr = Field(
        SecretStr(""), description="postgresql://... of a database to keep the view in, in place of the file"
    )
    view_start_s: float = Field(
        60.0, gt=0, description="seconds that a starting API waits for a view that refuses it; then it exits with 2"
    )
    view_max_bytes: int = Field(
        16 << 30, ge=0, description="bytes of its files at any moment; without room the oldest posts go; 0: no bound"
    )
    recent_bytes: int = Field(128 << 20, ge=0, description="memory for the newest verdicts, in front of the view")
    retention_days: float = Field(0.0, ge=0, description="age after which the view forgets a post; 0: never")
    max_lag: int = Field(10_000, ge=0, description="records behind the topic at which health says NOT_SERVING")
    max_lag_unknown_s: float = Field(
        300.0, ge=0, description="NOT_SERVING after seconds without the topic's end from the brokers; 0: never"
    )
    max_wait_s: float = Field(60.0, gt=0, description="longest wait for a verdict in one call")
    max_queued_calls: int = Field(
        1_000, ge=1, description="calls that wait to be read: from there on some are shed, at twice as many all"
    )
    max_concurrent_calls: int = Field(256, ge=1, description="lookups at once; more are refused, RESOURCE_EXHAUSTED")
    max_waits: int = Field(
        4_000, ge=1, description="WaitVerdict and ModeratePost calls at once; more are refused, RESOURCE_EXHAUSTED"
    )
    max_watches: int = Field(200, ge=1, description="WatchVerdicts streams at once; as above")
    calls_per_second: float = Field(
        0.0, ge=0, description="of one caller, a batch counting for one each 100 ids; 0: no limit"
    )
    max_connection_calls: int = Field(
        500, ge=1, description="calls at once on one connection; a client holds further ones back, or opens another"
    )
    max_connections: int = Field(
        1_000, ge=1, description="connections at once, fewer without descriptors for them; more are closed as they come"
    )
    max_peer_connections: int = Field(
        100, ge=0, description="connections at once of one address; the newest beyond it are closed; 0: no limit"
    )
    unauthenticated_timeout_s: float = Field(
        20.0, gt=0, description="seconds after which a connection without a call with credentials is closed"
    )
    max_body_bytes: int = Field(
        240 << 20,
        ge=1,
        description="memory for requests while they are read, half of it for posts; each counts as the largest message",
    )
    body_timeout_s: float = Field(
        15.0, gt=0, description="longest time for a request to arrive in full; that of a lookup has at most 5 s"
    )
    watch_buffer: int = Field(10_000, ge=1, description="changes held for a watch; a slower reader is shed")
    watch_stall_s: float = Field(30.0, gt=0, description="a watch that takes no message for so long is shed")
    watch_s: float = Field(3_600.0, gt=0, description="longest life of a watch; it then goes on from its last token")
    max_pending_posts: int = Field(
        10_000, ge=1, description="posts of ModeratePost without a verdict yet, at which more are refused"
    )
    max_submit_bytes: int = Field(
        64 << 20,
        ge=1,
        description="bytes of posts on their way to the topic, each of which is held three times; beyond it posts are "
        "refused, a larger one goes alone",
    )
    show_prompts: bool = Field(False, description="whether ListPolicies tells the text that the model reads")
    reflection: Literal["auto", "on", "off"] = Field("auto", description="auto: on while the API needs no credentials")
    keepalive_s: float = Field(60.0, gt=0, description="between pings on an idle connection; below a balancer's limit")
    connection_age_s: float = Field(
        600.0,
        ge=0,
        description="age at which clients are told to connect anew, so that balancers spread them; 0: never",
    )
    drain_delay_s: float = Field(
        2.0, ge=0, description="that a stopping API, NOT_SERVING, takes calls for: balancers need time to hear of it"
    )
    drain_timeout_s: float = Field(
        10.0, gt=0, description="how long a stopping API finishes its calls, after the delay"
    )


class AuthSettings(_Group):
    """Who may call the API."""

    tls_certificate: Path | None = Field(
        None, description="PEM of the API's certificate chain; read anew when it changes"
    )
    tls_key: Path | None = Field(None, description="PEM of its key")
    tls_client_ca: Path | None = Field(
        None, description="PEM of the CA that clients' certificates must be signed by (mTLS)"
    )
    tls_client_names: str = Field(
        "", description="subject alternative names that may call, separated by commas; empty: all that the CA signs"
    )
    jwt_keys: str = Field("", description="file (PEM or JWKS) or https URL (JWKS) of the keys that sign bearer tokens")
    jwt_algorithms: str = Field("RS256,ES256,EdDSA", description="what tokens may be signed with; asymmetric ones only")
    jwt_audience: str = Field("", description="aud that a token must have; required with jwt_keys")
    jwt_issuer: str = Field("", description="iss that a token must have; required with jwt_keys")
    jwt_tenant_claim: str = Field("tenant", min_length=1, description="claim that binds a caller to one tenant")
    jwt_refresh_s: float = Field(300.0, gt=0, description="seconds between two readings of the keys")
    jwt_keys_max_age_s: float = Field(86_400.0, gt=0, description="seconds until keys that were not read again expire")
    tenant_required: bool = Field(False, description="whether a token without a tenant is refused")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise ValueError("tls_certificate and tls_key belong together")
        if self.tls_client_ca and not self.tls_certificate:
            raise ValueError("tls_client_ca needs tls_certificate and tls_key")
        if self.tls_client_names and not self.tls_client_ca:
            raise ValueError("tls_client_names needs tls_client_ca")
        if self.jwt_keys and not (self.jwt_audience and self.jwt_issuer):
            raise ValueError("jwt_keys needs jwt_audience and jwt_issuer: a token for another service is none for us")
        if self.jwt_keys_max_age_s <= self.jwt_refresh_s:
            raise ValueError("jwt_keys_max_age_s must be above jwt_refresh_s")
        if self.tenant_required and not self.jwt_keys:
            raise ValueError("tenant_required needs jwt_keys: tenants come from tokens")
        if self.jwt_keys.startswith("http:"):
            raise ValueError("jwt_keys must not be an http URL: whoever is on the way could sign tokens")
        if not self.algorithms or not set(self.algorithms) <= ASYMMETRIC:
            raise ValueError(f"jwt_algorithms must be among {', '.join(sorted(ASYMMETRIC))}")
        return self

    @property
    def algorithms(self) -> tuple[str, ...]:
        """What tokens may be signed with."""
        return tuple(part.strip() for part in self.jwt_algorithms.split(",") if part.strip())

    @property
    def client_names(self) -> frozenset[str]:
        """Who may call, of those that the CA signs; empty: all."""
        return frozenset(part.strip() for part in self.tls_client_names.split(",") if part.strip())

    @property
    def open(self) -> bool:
        """Whether anyone may call."""
        return not (self.tls_client_ca or self.jwt_keys)


class ClientSettings(_Group):
    """How the commands that call the API reach it."""

    ca: Path | None = Field(None, description="PEM of the CA that signed the API's certificate: TLS")
    certificate: Path | None = Field(None, description="PEM of our certificate chain, for mTLS")
    key: Path | None = Field(None, description="PEM of our key, for mTLS")
    token_file: Path | None = Field(None, description="file with a bearer token; read for each call")
    tenant: str | None = Field(None, description="whose posts; default: the token's tenant, or all")

    @model_validator(mode="after")
    def _complete(self) -> Self:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key belong together")
        return self


class OpsSettings(_Group):
    """What operators look at."""

    listen: str = Field(
        "", description="host:port that answers /metrics, /livez, /readyz and /startupz, in both roles; empty: none"
    )
    loop_timeout_s: float = Field(
        30.0, gt=0, description="/livez fails once the event loop has stood still for so long"
    )


class TracesSettings(_Group):
    """Traces, where there is something that takes them. Needs the extra `otel`."""

    endpoint: str = Field("", description="URL of an OpenTelemetry collector (OTLP over HTTP); empty: no traces")
    sample_ratio: float = Field(
        0.05, ge=0, le=1, description="of posts and calls that come without a decision of their caller"
    )

    @model_validator(mode="after")
    def _is_http(self) -> Self:
        if self.endpoint and not self.endpoint.startswith(("http://", "https://")):
            raise ValueError("endpoint must be an http or https URL")
        return self


class LogSettings(_Group):
    """Logs."""

    level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="debug names every post and its outcome"
    )
    format: Literal["auto", "json", "console"] = Field("auto", description="auto: console on a terminal, else JSON")
    raw: bool = Field(False, description="true: what C and Rust libraries print passes as it is, posts' text included")


class Settings(_Group):
    """All of them."""

    policies: Path = Field(Path("policies"), description="folder of the policy set")
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
                f"{PREFIX}WORKER__POST_TIMEOUT_S must be longer than the deadlines on a post's way together "
                f"(step_timeout_s, encode_timeout_s, twice media.timeout_s: {sum(steps):g} s): else a worker that "
                "waits for one ends"
            )
        return self


def load(environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings of this process. Raises ConfigError naming each variable that is wrong, never its value."""
    values: dict[str, Any] = {}
    for variable, value in environment.items():
        if not variable.startswith(PREFIX) or variable.startswith(NOT_OURS):
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
            raise ConfigError(f"{variable} is set twice, under two names: keep one")
        group[path[-1]] = value
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        raise ConfigError("\n".join(_explain(error))) from None


def knobs() -> Iterator[tuple[str, str, str]]:
    """(variable, default, description) of every knob, for `moderation settings` and for suggestions."""
    for name, field in Settings.model_fields.items():
        if isinstance(field.default, _Group):
            for leaf, inner in type(field.default).model_fields.items():
                default = "" if inner.default is None else str(inner.default)
                yield f"{PREFIX}{name}__{leaf}".upper(), default, inner.description or ""
        else:
            yield f"{PREFIX}{name}".upper(), str(field.default), field.description or ""


def _explain(error: ValidationError) -> Iterator[str]:
    known = [variable.removeprefix(PREFIX) for variable, _, _ in knobs()]  # which would make all of them alike
    for one in error.errors(include_url=False, include_input=False, include_context=False):
        variable = PREFIX + "__".join(str(part) for part in one["loc"]).upper()
        if one["type"] == "extra_forbidden":
            close = difflib.get_close_matches(variable.removeprefix(PREFIX), known, n=1)
            hint = f"did you mean {PREFIX}{close[0]}?" if close else "`moderation settings` lists them"
            yield f"{variable}: there is no such setting; {hint}"
        elif not one["loc"]:  # of several groups: it names them itself
            yield one["msg"].removeprefix("Value error, ")
        else:
            yield f"{variable}: {one['msg'].removeprefix('Value error, ')}"
