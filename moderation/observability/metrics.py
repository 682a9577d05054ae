"""Every metric, defined once. The operations port (probes.py) serves the metrics to Prometheus.

Units are base units. The values of a label are bounded by the code, by the policy set or by the number of partitions.
A label never holds a post's id, a tenant or a text. `make reference` writes deploy/reference/metrics.md.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from prometheus_client import Counter, Gauge, disable_created_metrics

from moderation.observability import phases
from moderation.observability.fast_metrics import FastCounter, FastHistogram
from moderation.types import Origin, Verdict

LONG = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)  # seconds in a backlog
SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
TOKENS = (128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
NAN = float("nan")
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 2.0)

disable_created_metrics()  # type: ignore[no-untyped-call]  # would add a series to each counter, which no query needs

# Both roles

BUILD = Gauge("moderation_build_info", "Always 1; the labels are the running version and its role", ["version", "role"])
READY = Gauge("moderation_ready", "1 while the process can work: what its /readyz says", ["role"])
START = Gauge("moderation_start_timestamp_seconds", "When the role started, since 1970", ["role"])
MEMORY = Gauge(
    "moderation_memory_bytes",
    "Memory that counts against the limit: the container's, without the page cache of files; NaN: unknown",
)
MEMORY_LIMIT = Gauge(
    "moderation_memory_limit_bytes", "Memory limit of the container, or the machine's memory; NaN: unknown"
)
LOOP_LAG = FastHistogram("moderation_loop_lag_seconds", "Delay of the event loop's ticks", SHORT)
LOOP_TICK_AGE = Gauge(
    "moderation_loop_tick_age_seconds", "Time since the last tick of the event loop; grows while the loop is stuck"
)
LOG_DROPPED = FastCounter("moderation_log_lines_dropped", "Log lines dropped because the queue of the log was full", [])
LOG_DROPPED.counts[()] = 0
LOG_ERRORS = FastCounter("moderation_log_write_errors", "Failed attempts to write a log line, by cause", ["cause"])
LOG_WAITING = Gauge("moderation_log_lines_waiting", "Log lines waiting to be written")
KAFKA_ANSWER_AGE = Gauge(
    "moderation_kafka_answer_age_seconds",
    "Time since a broker last answered this process; NaN before the first answer",
)
KAFKA_ANSWER_AGE.set(NAN)

# What Kafka removed before it was read

RECORDS_LOST = Counter(
    "moderation_records_lost",
    "Records that Kafka removed before they were read, at most; a loss of unknown size counts as 1",
    ["topic", "partition", "cause"],
)
RECORDS_LOST_AT = Gauge(
    "moderation_records_lost_timestamp_seconds", "When the last loss was found, since 1970", ["topic", "partition"]
)

# Model and policies

MODEL = Gauge("moderation_model_info", "Always 1; the labels are the model in use", ["name", "revision", "digest"])
POLICIES = Gauge("moderation_policies_info", "Always 1; the label is the policy set in use", ["digest"])
POLICY = Gauge("moderation_policy_info", "Always 1; the labels are a policy in use", ["policy", "version", "status"])
POLICIES_READ = Gauge("moderation_policies_read_timestamp_seconds", "When the role read its policies, since 1970")
CERTIFICATE = Gauge(
    "moderation_policy_certificate_info",
    "Always 1; whether the certificate of a policy holds now. Only of policies that have or require one",
    ["policy", "mode", "required", "standing", "certificate"],
)
POLICY_CERTIFICATE_EXPIRY = Gauge(
    "moderation_policy_certificate_expiry_timestamp_seconds",
    "When the certificate beside a policy ends, since 1970",
    ["policy", "mode"],
)
GPU_ALLOCATED = Gauge("moderation_gpu_memory_allocated_bytes", "Device memory that tensors use", ["device"])
GPU_RESERVED = Gauge("moderation_gpu_memory_reserved_bytes", "Device memory that PyTorch has reserved", ["device"])
GPU_TOTAL = Gauge("moderation_gpu_memory_total_bytes", "Total memory of the device", ["device"])

# The worker: load

LAG = Gauge(
    "moderation_worker_lag_records",
    "Records of a posts partition without a committed outcome, up to the high watermark; NaN: the end is unknown",
    ["partition"],
)
UNSTABLE = Gauge(
    "moderation_worker_unstable_records",
    "Records of a posts partition that cannot be read yet: behind an open transaction of a producer; NaN: unknown",
    ["partition"],
)
LAG_AGE = Gauge(
    "moderation_worker_lag_seconds",
    "Age of the oldest record without a committed outcome; 0: no such record; NaN: unknown",
    ["partition"],
)
STANDSTILL = Gauge(
    "moderation_worker_standstill_seconds",
    "Time since the committed position of a posts partition moved, while records wait; 0: none waits; NaN: unknown",
    ["partition"],
)
PARTITIONS = Gauge("moderation_worker_partitions", "Partitions assigned to this worker")
FOREIGN_MEMBERS = Gauge(
    "moderation_group_foreign_members",
    "Members of the workers' group that are no workers of this service; NaN: unknown",
)
FOREIGN_MEMBERS.set(NAN)
REBALANCES = Counter("moderation_worker_rebalances", "Assignments of partitions to this worker")
IN_FLIGHT = Gauge("moderation_worker_in_flight_posts", "Posts in hand: polled and not yet committed")
OLDEST_POST = Gauge(
    "moderation_worker_oldest_post_seconds",
    "Time since the oldest post in hand was polled; grows while the partition is stuck. 0: no post in hand",
    ["partition"],
)
IN_PHASE = Gauge("moderation_worker_posts_in_phase", "Posts in hand, by phase", ["phase"])
IN_FLIGHT_BYTES = Gauge("moderation_worker_in_flight_bytes", "Bytes of the records of posts in hand")
POST = FastHistogram(
    "moderation_post_seconds",
    "Time from a post's arrival on its topic to the commit of its outcome, by the brokers' clock",
    LONG,
).series()
CLOCK_SKEW = Gauge(
    "moderation_clock_skew_seconds",
    "A clock minus the brokers': this worker's, or the producers' clock that was farthest off lately; NaN: unknown",
    ["clock"],
)
PHASES = FastHistogram("moderation_phase_seconds", "Time that a published post spent in each phase", LONG, ["phase"])

DECODERS = Gauge("moderation_decoder_processes", "Decoder processes that run")
DECODERS_LOST = Counter(
    "moderation_decoder_processes_lost",
    "Decoder processes that were killed, or ended, other than at the end of this process, by cause",
    ["cause"],
)

# The worker: batches

QUEUED = Gauge("moderation_batch_queue_posts", "Encoded posts waiting for a step of the device")
QUEUE_AGE = Gauge("moderation_batch_queue_age_seconds", "Longest wait of an encoded post; 0: no post waits")
STEP = FastHistogram("moderation_step_seconds", "Duration of a step of the device", LONG).series()
BATCH_POSTS = FastHistogram("moderation_batch_posts", "Posts in a step", COUNTS).series()
BATCH_TOKENS = FastHistogram("moderation_batch_tokens", "Tokens in a step", TOKENS).series()
BATCH_FILL = FastHistogram(
    "moderation_batch_fill_ratio", "Tokens in a step, divided by the token budget", SHARES
).series()
STEPS_FAILED = Counter("moderation_steps_failed", "Steps that failed and scored nothing, by cause", ["cause"])
HALVINGS = Counter("moderation_batch_halvings", "Batches scored again in halves, by cause", ["cause"])
ATTEMPTS = Counter("moderation_posts_attempted_alone", "Posts judged alone because they may end the process")
GIVEN_UP = Counter("moderation_posts_given_up", "Posts that became dead letters after ending several processes")
GIVEN_UP_AT = Gauge(
    "moderation_post_given_up_timestamp_seconds", "When the last post was given up, since 1970; 0: never"
)
ENCODE_TIMEOUTS = Counter("moderation_encode_timeouts", "Posts not encoded within their time limit")
FEATURES_NEEDED = Counter("moderation_picture_features_needed", "Pictures whose features a step needed")
FEATURES_REUSED = Counter("moderation_picture_features_reused", "Pictures whose features came from an earlier step")

# The worker: a model server, where one is asked

MODEL_OUTAGE = Gauge("moderation_model_outage", "1 while the model server gives no answers, by cause", ["cause"])
MODEL_GIVEN_UP = Gauge(
    "moderation_model_outage_given_up", "1 while the outage is longer than it is waited for: policies' on_error counts"
)
MODEL_REQUESTS = Counter("moderation_model_requests", "Attempts at requests to the model server, by result", ["result"])
MODEL_REQUEST_SECONDS = FastHistogram(
    "moderation_model_request_seconds", "Duration of an answered request", LONG
).series()
MODEL_TOKENS = Counter(
    "moderation_model_tokens", "Tokens that the model server counted; cached ones are part of the input", ["kind"]
)
MODEL_COST = Counter("moderation_model_cost", "What these tokens cost, in the currency of the prices")

# The worker: outcomes, once they are committed

VERDICTS = FastCounter("moderation_verdicts", "Verdicts published", ["outcome", "status", "model"])
ORIGINS = FastCounter("moderation_verdict_origins", "Verdicts published, by origin", ["origin"])
FINDINGS = FastCounter("moderation_findings", "Findings published, by policy", ["policy", "version", "outcome", "mode"])
UNDETERMINED = FastCounter(
    "moderation_findings_undetermined",
    "Findings that are not FINAL: no answer of the model, no probability, or a part of the post was not read",
    ["policy", "reason"],
)
HELD = FastCounter(
    "moderation_findings_held",
    "Findings of which REMOVE became REVIEW, because their policy requires a certificate and none holds",
    ["policy", "standing"],
)
UNREAD = FastCounter(
    "moderation_posts_unread",
    "Posts of which a part, or all, was not judged; a post counts once for each of its reasons",
    ["reason"],
)
DEAD_LETTERS = FastCounter(
    "moderation_dead_letters",
    "Records with a part that was refused or could not be had, by the first reason",
    ["reason"],
)
ERASURES = Counter("moderation_erasures", "Erasures published, without copies of erasures on other partitions")
ERASURES_UNCOPIED = Counter("moderation_erasures_uncopied", "Erasures that the worker may not copy to other partitions")
KEYS_MISPLACED = Counter("moderation_keys_misplaced", "Posts and erasures on a partition that murmur2 would not choose")
CACHED_VERDICTS = Gauge("moderation_verdict_cache_entries", "Verdicts in the verdict cache")
CACHED_BYTES = Gauge("moderation_verdict_cache_bytes", "Approximate size of the verdict cache")

# The worker: delivery

TRANSACTION = FastHistogram(
    "moderation_transaction_seconds", "Time from begin to commit, or from send to committed offset", SHORT
).series()
TRANSACTION_POSTS = FastHistogram("moderation_transaction_posts", "Posts published in a transaction", COUNTS).series()
REQUESTS_LOST = Counter(
    "moderation_producer_requests_lost", "Requests of transactional producers that no broker answered in time"
)
PRODUCERS_REPLACED = Counter("moderation_producers_replaced", "Transactional producers replaced after an error")

# The API

VIEW_LAG = Gauge(
    "moderation_view_lag_records",
    "Records on the verdicts topic that the view has not read yet, up to the high watermark; NaN: unknown",
)
VIEW_UNSTABLE = Gauge(
    "moderation_view_unstable_records",
    "Records on the verdicts topic that cannot be read yet: behind an open transaction of a worker; NaN: unknown",
)
VIEW_AGE = Gauge(
    "moderation_view_lag_seconds", "Age of the oldest record that the view has not read yet; 0: none; NaN: unknown"
)
VIEW_STANDSTILL = Gauge(
    "moderation_view_standstill_seconds",
    "Time since the view's position moved on a partition where records wait, the longest; 0: none waits; NaN: unknown",
)
VIEW_ENDS_AGE = Gauge(
    "moderation_view_topic_end_age_seconds", "Time since the brokers last reported where the verdicts topic ends"
)
VIEW_STALLED = Gauge("moderation_view_stalled", "1 while the view's store takes no writes")
VIEW_BYTES = Gauge("moderation_view_bytes", "Bytes of the view's files, the write-ahead log included")
FOLDED = Counter("moderation_view_folded_records", "Records that the view has read and stored")
PRUNED = Counter("moderation_view_pruned_posts", "Posts deleted from the view because of their age or the size limit")
CALLS = Counter("moderation_api_calls", "Calls ended, by method and status code", ["method", "code"])
CALL = FastHistogram(
    "moderation_api_call_seconds",
    "Duration of calls; waits and watches last as long as the caller asks",
    SHORT,
    ["method"],
)
UNAUTHENTICATED_REFUSED = Counter(
    "moderation_api_unauthenticated_refused",
    "Refused calls: invalid credentials, unknown methods, and health checks beyond their limit",
)
CONNECTIONS = Gauge("moderation_api_connections", "Open connections to the API's port")
CONNECTIONS_CLOSED = Counter(
    "moderation_api_connections_closed", "Connections that the API closed, by cause", ["cause"]
)
BODIES_CUT = Counter("moderation_api_bodies_cut", "Requests refused because their body did not arrive in time")
WATCHES = Gauge("moderation_api_watches", "Open watches")
PENDING = Gauge("moderation_api_pending_posts", "Posts that this API produced and that have no verdict yet")
CERTIFICATE_EXPIRY = Gauge(
    "moderation_api_certificate_expiry_timestamp_seconds",
    "When the first certificate of the API's chain expires, or the last of its client CAs, since 1970; NaN: no TLS",
)
CERTIFICATE_EXPIRY.set(NAN)
KEYS_AGE = Gauge("moderation_jwt_keys_age_seconds", "Time since the keys of bearer tokens were last read; 0: no keys")

_QUEUE, _FETCH, _DECODE, _ENCODE, _BATCH_WAIT, _MODEL, _COMMIT = (
    PHASES.series(phase.value) for phase in phases.MEASURED
)
_MODES = {True: "live", False: "shadow"}


def use_policies(digest: str, policies: Iterable[tuple[str, int, str]], read_s: float) -> None:
    """Shows the policy set in use. `policies`: id, version and status of each; `read_s`: when, since 1970."""
    POLICIES.clear()
    POLICY.clear()
    POLICIES.labels(digest).set(1)
    POLICIES_READ.set(read_s)
    for policy, version, status in policies:
        POLICY.labels(policy, version, status).set(1)


def records_lost(topic: str, partition: int, cause: str, records: int | None) -> None:
    """Counts records that Kafka removed before they were read. topic: `posts` or `verdicts`. records: None: unknown."""
    RECORDS_LOST.labels(topic, partition, cause).inc(max(1, records or 1))
    RECORDS_LOST_AT.labels(topic, partition).set(time.time())


def count_verdict(verdict: Verdict, commit_s: float) -> None:
    """Counts a published verdict, `commit_s` seconds after it was decided. Runs for every post, on the event loop."""
    spent = verdict.timings
    _QUEUE.add(spent.queue)
    _COMMIT.add(commit_s)
    if spent.decode:  # the post has images
        _FETCH.add(spent.fetch)
        _DECODE.add(spent.decode)
    if verdict.origin is Origin.MODEL:
        _ENCODE.add(spent.encode)
        _BATCH_WAIT.add(spent.batch_wait)
        _MODEL.add(spent.model)
    VERDICTS.counts[verdict.outcome, verdict.status, verdict.model.name] += 1
    ORIGINS.counts[(verdict.origin,)] += 1
    if verdict.problems:
        for reason in {problem.reason for problem in verdict.problems}:
            UNREAD.counts[(reason,)] += 1
        if refused := verdict.refused:
            DEAD_LETTERS.counts[(refused.reason,)] += 1
    findings = FINDINGS.counts
    for finding in verdict.findings:
        findings[finding.policy_id, finding.policy_version, finding.outcome, _MODES[finding.counts]] += 1
        if finding.held:
            HELD.counts[finding.policy_id, finding.held] += 1
        if finding.reason:
            UNDETERMINED.counts[finding.policy_id, finding.reason] += 1
