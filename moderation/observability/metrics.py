"""Every metric, named once. The operations port (probes.py) writes them for Prometheus.

Base units; labels that are bounded: by the code, by the policy set or by the number of partitions. Never a post's id,
a tenant or a text.
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, disable_created_metrics

from moderation.observability import phases
from moderation.observability.fast_metrics import FastCounter, FastHistogram
from moderation.types import Finding, Origin, Reason, Verdict

LONG = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)  # seconds in a backlog
SHORT = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
TOKENS = (128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536)
SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 2.0)

disable_created_metrics()  # type: ignore[no-untyped-call]  # a series more for each counter, that no query needs

# Both roles

BUILD = Gauge("moderation_build_info", "1: the version that runs, and in which role", ["version", "role"])
LOOP_LAG = FastHistogram("moderation_loop_lag_seconds", "By how much the event loop was late at a tick", SHORT)
LOOP_TICK_AGE = Gauge(
    "moderation_loop_tick_age_seconds", "Since the event loop has last ticked; grows while it is stuck"
)
LOG_DROPPED = FastCounter("moderation_log_lines_dropped", "Log lines that found the queue of the log full", [])
LOG_DROPPED.counts[()] = 0
LOG_ERRORS = FastCounter("moderation_log_write_errors", "Failed attempts to write a log line, by cause", ["cause"])
LOG_WAITING = Gauge("moderation_log_lines_waiting", "Log lines that wait to be written")

# What judges

MODEL = Gauge("moderation_model_info", "1: the model that judges", ["name", "revision", "digest"])
POLICIES = Gauge("moderation_policies_info", "1: the policy set that is judged by", ["digest"])
GPU_ALLOCATED = Gauge("moderation_gpu_memory_allocated_bytes", "Device memory in tensors", ["device"])
GPU_RESERVED = Gauge("moderation_gpu_memory_reserved_bytes", "Device memory that torch holds", ["device"])
GPU_TOTAL = Gauge("moderation_gpu_memory_total_bytes", "Memory of the device", ["device"])

# The worker: is it keeping up

LAG = Gauge("moderation_worker_lag_records", "Records of a posts partition without a committed answer", ["partition"])
LAG_AGE = Gauge(
    "moderation_worker_lag_seconds",
    "Age of the oldest record without a committed answer; 0: there is none",
    ["partition"],
)
PARTITIONS = Gauge("moderation_worker_partitions", "Partitions that are assigned to this worker")
REBALANCES = Counter("moderation_worker_rebalances", "Assignments of partitions to this worker")
IN_FLIGHT = Gauge("moderation_worker_in_flight_posts", "Posts under way: taken, and not committed")
OLDEST_POST = Gauge(
    "moderation_worker_oldest_post_seconds",
    "Since the oldest post in hand was polled; it grows while the partition stands still. 0: there is none",
    ["partition"],
)
IN_PHASE = Gauge("moderation_worker_posts_in_phase", "Posts in hand by the phase that they are in", ["phase"])
IN_FLIGHT_BYTES = Gauge("moderation_worker_in_flight_bytes", "Bytes of their records")
PHASES = FastHistogram("moderation_phase_seconds", "What a published post has spent in each phase", LONG, ["phase"])

# The worker: batches

QUEUED = Gauge("moderation_batch_queue_posts", "Posts that are encoded and wait for a step")
QUEUE_AGE = Gauge("moderation_batch_queue_age_seconds", "How long the longest of them has waited; 0: none waits")
STEP = FastHistogram("moderation_step_seconds", "Duration of a step of the device", LONG).series()
BATCH_POSTS = FastHistogram("moderation_batch_posts", "Posts of a step", COUNTS).series()
BATCH_TOKENS = FastHistogram("moderation_batch_tokens", "Tokens of a step", TOKENS).series()
BATCH_FILL = FastHistogram("moderation_batch_fill_ratio", "Tokens of a step over the budget of one", SHARES).series()
STEPS_FAILED = Counter("moderation_steps_failed", "Steps that have scored nothing, by cause", ["cause"])
HALVINGS = Counter("moderation_batch_halvings", "Batches that were scored again in halves, by cause", ["cause"])
ATTEMPTS = Counter("moderation_posts_attempted_alone", "Posts that were processed alone, as they may end the process")
GIVEN_UP = Counter("moderation_posts_given_up", "Posts that became dead letters because they ended several processes")
ENCODE_TIMEOUTS = Counter("moderation_encode_timeouts", "Posts that were not encoded in time")
FEATURES_ASKED = Counter("moderation_picture_features_asked", "Pictures whose features a step needed")
FEATURES_FOUND = Counter("moderation_picture_features_found", "Of these, those that were kept from an earlier step")

# The worker: outcomes, once they are committed

VERDICTS = FastCounter("moderation_verdicts", "Verdicts published", ["outcome", "status", "model"])
ANSWERS = FastCounter("moderation_verdict_origins", "Verdicts published, by origin", ["origin"])
FINDINGS = FastCounter("moderation_findings", "Findings published, by policy", ["policy", "outcome", "mode"])
UNANSWERED = FastCounter(
    "moderation_findings_undetermined", "Findings without an answer of the model", ["policy", "reason"]
)
DEAD_LETTERS = FastCounter("moderation_dead_letters", "Records that could not be judged", ["reason"])
ERASURES = Counter("moderation_erasures", "Erasures published")
MEMORY_VERDICTS = Gauge("moderation_verdict_cache_entries", "Verdicts in memory, that repeats are answered from")
MEMORY_BYTES = Gauge("moderation_verdict_cache_bytes", "What they take, about")

# The worker: delivery

TRANSACTION = FastHistogram(
    "moderation_transaction_seconds", "From begin to commit, or from send to offset", SHORT
).series()
TRANSACTION_POSTS = FastHistogram("moderation_transaction_posts", "Posts answered in a transaction", COUNTS).series()
PRODUCERS_REPLACED = Counter("moderation_producers_replaced", "Producers thrown away in the midst of an assignment")

# The API

VIEW_LAG = Gauge(
    "moderation_view_lag_records", "Records on the verdicts topic that the view has not folded in; NaN: not known"
)
VIEW_AGE = Gauge("moderation_view_lag_seconds", "Age of the oldest record that the view has not folded in; 0: none")
VIEW_ENDS_AGE = Gauge(
    "moderation_view_ends_age_seconds", "Since the brokers have last said where the verdicts topic ends"
)
VIEW_STALLED = Gauge("moderation_view_stalled", "1 while the view's store takes no writes")
VIEW_BYTES = Gauge("moderation_view_bytes", "Bytes of the view's files, the write-ahead log included")
FOLDED = Counter("moderation_view_folded_records", "Records folded into the view")
PRUNED = Counter("moderation_view_pruned_posts", "Posts that the view has forgotten by age or for want of room")
CALLS = Counter("moderation_api_calls", "Calls answered, by method and status code", ["method", "code"])
CALL = FastHistogram(
    "moderation_api_call_seconds", "Duration of calls; a wait or a watch lasts as long as asked", SHORT, ["method"]
)
STRANGERS_REFUSED = Counter(
    "moderation_api_unauthenticated_refused",
    "Calls refused without credentials that hold, of unknown methods, and health checks beyond their bound",
)
CONNECTIONS = Gauge("moderation_api_connections", "Connections to the API's port")
CONNECTIONS_CLOSED = Counter(
    "moderation_api_connections_closed", "Connections that the API has closed, by cause", ["cause"]
)
BODIES_CUT = Counter("moderation_api_bodies_cut", "Requests cut because they did not arrive in time")
WATCHES = Gauge("moderation_api_watches", "Watches that are open")
PENDING = Gauge("moderation_api_pending_posts", "Posts put on the topic by this API that have no verdict yet")
KEYS_AGE = Gauge("moderation_jwt_keys_age_seconds", "Since the keys of bearer tokens were last read; 0: there are none")

_QUEUE, _FETCH, _DECODE, _ENCODE, _BATCH_WAIT, _MODEL, _COMMIT = (
    PHASES.series(phase.value) for phase in phases.MEASURED
)
_MODES = {True: "live", False: "shadow"}


def answered(verdict: Verdict, commit: float) -> None:
    """A verdict is on its topic, `commit` seconds after it was decided. Runs for every post, on the event loop."""
    spent = verdict.timings
    _QUEUE.add(spent.queue)
    _COMMIT.add(commit)
    if spent.decode:  # there are pictures
        _FETCH.add(spent.fetch)
        _DECODE.add(spent.decode)
    if verdict.origin is Origin.MODEL:
        _ENCODE.add(spent.encode)
        _BATCH_WAIT.add(spent.batch_wait)
        _MODEL.add(spent.model)
    VERDICTS.counts[verdict.outcome, verdict.status, verdict.model.name] += 1
    ANSWERS.counts[(verdict.origin,)] += 1
    if verdict.reason:
        DEAD_LETTERS.counts[(verdict.reason,)] += 1
    findings = FINDINGS.counts
    for finding in verdict.findings:
        findings[finding.policy_id, finding.outcome, _MODES[finding.counts]] += 1
        if finding.reason:
            _unanswered(finding, finding.reason)


def _unanswered(finding: Finding, reason: Reason) -> None:
    UNANSWERED.counts[finding.policy_id, reason] += 1
