"""Writes dashboard.json, which Grafana loads: `make reference` runs it.

A row is a question. A panel has one or more queries, each with the name of its line.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from panels import VARIABLES, WIDTH, by_instance, mean, panel, quantile, rate

COST = f"1000 * {rate('moderation_model_cost_total')}"
LOOKUPS = '{method=~"GetVerdict|BatchGetVerdicts"}'
OURS, EACH = '{installation!=""}', "{{instance}}"
AGE = "time() - moderation_policies_read_timestamp_seconds"
JUDGED = rate("moderation_verdict_origins_total", where='{origin="model"}')

ROWS: list[tuple[str, list[Any]]] = [
    (
        "Is it keeping up?",
        [
            panel(
                "Oldest post without a verdict", "The age of the oldest, over all partitions.", "s",
                ("max(moderation_worker_lag_seconds)", "oldest"), kind="stat",
            ),
            panel(
                "Posts without a verdict", "Records on the posts topic without a committed verdict.", "short",
                ("sum(max by (partition) (moderation_worker_lag_records))", "records"), kind="stat",
            ),
            panel(
                "Verdicts", "Published and committed, per second.", "cps",
                (rate("moderation_verdict_origins_total"), "verdicts"), kind="stat",
            ),
            panel(
                "Within a minute", "Share of posts with a verdict a minute after their arrival.", "percentunit",
                (
                    rate("moderation_post_seconds_bucket", where='{le="60.0"}')
                    + " / " + rate("moderation_post_seconds_count"),
                    "share",
                ),
                kind="stat",
            ),
            panel(
                "Age of the oldest, by partition", "0: each post of the partition has a verdict.", "s",
                ("max by (partition) (moderation_worker_lag_seconds)", "{{partition}}"),
            ),
            panel(
                "Records behind, by partition", "Posts without a committed verdict.", "short",
                ("max by (partition) (moderation_worker_lag_records)", "{{partition}}"),
            ),
            panel(
                "From arrival to verdict", "Until the commit, dead letters included; by the brokers' clock.", "s",
                (quantile(0.5, "moderation_post_seconds"), "p50"), (quantile(0.95, "moderation_post_seconds"), "p95"),
            ),
            panel(
                "Wrong clocks", "Off the brokers' clock. Producers: the one farthest off in the last minutes.", "s",
                ("abs(moderation_clock_skew_seconds)", "{{instance}} {{clock}}"),
            ),
            panel(
                "Standstill, by partition", "Time since the committed position moved, while records wait.", "s",
                ("max by (partition) (moderation_worker_standstill_seconds)", "{{partition}}"),
            ),
            panel(
                "Records that cannot be read yet", "Behind an open transaction: on the posts topic, of a producer.",
                "short",
                ("max by (partition) (moderation_worker_unstable_records)", "{{partition}}"),
                ("max by (instance) (moderation_view_unstable_records)", "view of {{instance}}"),
            ),
            panel(
                "Where a post spends its time", "95th percentile of each phase.", "s",
                (quantile(0.95, "moderation_phase_seconds", "phase"), "{{phase}}"),
            ),
            panel(
                "Under way", "Taken and not committed; encoded and waiting for a step.", "short",
                ("sum(moderation_worker_in_flight_posts)", "under way"),
                ("sum(moderation_batch_queue_posts)", "waiting for a step"),
            ),
            panel(
                "Oldest post in hand, by partition", "Time since its poll, until its verdict is committed.", "s",
                ("max by (partition) (moderation_worker_oldest_post_seconds)", "{{partition}}"),
            ),
            panel(
                "Posts in hand, by phase", "The phase that each post is in.", "short",
                ("sum by (phase) (moderation_worker_posts_in_phase)", "{{phase}}"),
            ),
            panel(
                "Decoder processes lost", "Killed at an image, or crashed, per minute, by cause.", "short",
                ("sum by (cause) (rate(moderation_decoder_processes_lost_total[5m])) * 60", "{{cause}}"),
                ("sum(moderation_decoder_processes)", "running"),
            ),
            panel("Bytes under way", "Of records in hand.", "bytes", by_instance("moderation_worker_in_flight_bytes")),
            panel(
                "Longest wait for a step", "Of the encoded posts, by worker.", "s",
                ("max by (instance) (moderation_batch_queue_age_seconds)", "{{instance}}"),
            ),
        ],
    ),
    (
        "GPU and batches",
        [
            panel(
                "Step", "Device time of a batch.", "s",
                (quantile(0.5, "moderation_step_seconds"), "p50"), (quantile(0.95, "moderation_step_seconds"), "p95"),
            ),
            panel(
                "Fill", "Tokens of a step / MODERATION_WORKER__BATCH_TOKENS. Low when there are few posts.",
                "percentunit", (mean("moderation_batch_fill_ratio"), "mean"),
            ),
            panel("Tokens", "Per second.", "cps", (rate("moderation_batch_tokens_sum", "instance"), "{{instance}}")),
            panel(
                "Posts of a step", "Mean; steps per second.", "short",
                (mean("moderation_batch_posts"), "posts"), (rate("moderation_step_seconds_count"), "steps/s"),
            ),
            panel(
                "GPU memory", "Used by tensors; reserved by torch; total.", "bytes",
                ("sum by (instance, device) (moderation_gpu_memory_allocated_bytes)", "{{instance}} {{device}} used"),
                (
                    "sum by (instance, device) (moderation_gpu_memory_reserved_bytes)",
                    "{{instance}} {{device}} reserved",
                ),
                ("sum by (instance, device) (moderation_gpu_memory_total_bytes)", "{{instance}} {{device}} total"),
            ),
            panel(
                "Pictures seen before", "Share of pictures whose features were kept.", "percentunit",
                (rate("moderation_picture_features_reused_total") + " / "
                    + rate("moderation_picture_features_needed_total"), "share"),
            ),
            panel(
                "Failed steps and halvings", "A batch that fails is scored again in halves.", "cps",
                (rate("moderation_steps_failed_total", "cause"), "failed: {{cause}}"),
                (rate("moderation_batch_halvings_total", "cause"), "halved: {{cause}}"),
            ),
        ],
    ),
    (
        "Model server",
        [
            panel("Outage", "1: it is away.", "short", ("max by (cause) (moderation_model_outage)", "{{cause}}")),
            panel("Attempts", "By result.", "cps", (rate("moderation_model_requests_total", "result"), "{{result}}")),
            panel(
                "Answered requests", "Duration.", "s",
                (quantile(0.5, "moderation_model_request_seconds"), "p50"),
                (quantile(0.95, "moderation_model_request_seconds"), "p95"),
            ),
            panel(
                "Tokens of the server", "Per second; cached ones are part of the input.", "cps",
                (rate("moderation_model_tokens_total", "kind"), "{{kind}}"),
            ),
            panel(
                "Cost of an hour", "At the present rate, in the currency of the prices.", "short",
                (f"3600 * {rate('moderation_model_cost_total', 'instance')}", "{{instance}}"),
            ),
            panel(
                "Cost of a thousand posts", "Posts that the model judged; all, with those from the cache.", "short",
                (f"{COST} / {JUDGED}", "judged"), (f"{COST} / {rate('moderation_verdict_origins_total')}", "all"),
            ),
        ],
    ),
    (
        "Outcomes",
        [
            panel("Outcome", "Per second.", "cps", (rate("moderation_verdicts_total", "outcome"), "{{outcome}}")),
            panel("Status", "Per second.", "cps", (rate("moderation_verdicts_total", "status"), "{{status}}")),
            panel(
                "Origin", "Origins: the model, the verdict cache (same post before), or none.", "cps",
                (rate("moderation_verdict_origins_total", "origin"), "{{origin}}"),
            ),
            panel(
                "Findings that flag", "By policy, live and shadow.", "cps",
                (rate("moderation_findings_total", "policy, outcome, mode", '{outcome=~"review|remove"}'),
                 "{{policy}} {{outcome}} ({{mode}})"), width=16,
            ),
            panel(
                "Findings that are not final", "No answer, or unread parts: on_error counts too.", "cps",
                (rate("moderation_findings_undetermined_total", "policy, reason"), "{{policy}} {{reason}}"),
            ),
            panel(
                "Findings held", "REMOVE became REVIEW: no certificate holds for a policy that requires one.", "cps",
                (rate("moderation_findings_held_total", "policy, standing"), "{{policy}} {{standing}}"),
            ),
            panel(
                "Certificates of policies", "Time until they end; below 0: ended.", "s",
                ("min by (policy, mode) (moderation_policy_certificate_expiry_timestamp_seconds) - time()",
                 "{{policy}} ({{mode}})"),
            ),
            panel(
                "Standing of certificates", "Of policies that have or require one; 1 line for each.", "short",
                ("max by (policy, standing, required) (moderation_policy_certificate_info)",
                 "{{policy}} {{standing}} (required: {{required}})"),
            ),
            panel("Models in the verdicts", "One line for each model. Two lines: a rollout is under way.", "cps",
                  (rate("moderation_verdicts_total", "model"), "{{model}}")),
            panel(
                "Policy sets in use", "One line for each policy set. Two lines: a rollout is under way.", "short",
                ("count by (digest) (moderation_policies_info)", "{{digest}}"), width=16,
            ),
        ],
    ),
    (
        "Delivery",
        [
            panel(
                "Transactions", "From begin to commit.", "s",
                (quantile(0.5, "moderation_transaction_seconds"), "p50"),
                (quantile(0.95, "moderation_transaction_seconds"), "p95"),
            ),
            panel(
                "Posts of a transaction", "Mean; transactions per second.", "short",
                (mean("moderation_transaction_posts"), "posts"),
                (rate("moderation_transaction_seconds_count"), "transactions/s"),
            ),
            panel(
                "Dead letters, posts with unread parts", "By reason.", "cps",
                (rate("moderation_dead_letters_total", "reason"), "dead letter {{reason}}"),
                (rate("moderation_posts_unread_total", "reason"), "unread {{reason}}"),
            ),
            panel(
                "Partitions", "Of each worker; and members of the group that are no workers.", "short",
                by_instance("moderation_worker_partitions"), ("max(moderation_group_foreign_members)", "no workers"),
            ),
            panel(
                "Rebalances, producers replaced, requests lost", "In ten minutes.", "short",
                ("sum by (instance) (increase(moderation_worker_rebalances_total[10m]))", "rebalances {{instance}}"),
                ("sum by (instance) (increase(moderation_producers_replaced_total[10m]))", "producers {{instance}}"),
                ("sum by (instance) (increase(moderation_producer_requests_lost_total[10m]))", "requests {{instance}}"),
            ),
            panel(
                "Records lost", "Removed by Kafka before they were read, since the start of each process.", "short",
                (
                    "sum by (topic, cause) (max by (namespace, installation, topic, partition, cause)"
                    " (moderation_records_lost_total))",  # all APIs find the same ones
                    "{{topic}} {{cause}}",
                ),
            ),
            panel("Verdict cache", "Memory, by worker.", "bytes", by_instance("moderation_verdict_cache_bytes")),
            panel(
                "Verdicts in the cache; erasures and misplaced keys", "The last three: in ten minutes.", "short",
                by_instance("moderation_verdict_cache_entries"),
                ("sum(increase(moderation_erasures_total[10m]))", "erasures"),
                ("sum(increase(moderation_erasures_uncopied_total[10m]))", "erasures not copied"),
                ("sum(increase(moderation_keys_misplaced_total[10m]))", "misplaced keys"),
            ),
        ],
    ),
    (
        "Lookups",
        [
            panel("Calls", "Per second.", "cps", (rate("moderation_api_calls_total", "method"), "{{method}}")),
            panel(
                "Calls that did not return OK", "By code.", "cps",
                (rate("moderation_api_calls_total", "method, code", '{code!="OK"}'), "{{method}} {{code}}"),
            ),
            panel(
                "Unauthenticated", "Refused calls, closed connections and cut requests, per second.", "cps",
                (rate("moderation_api_unauthenticated_refused_total"), "refused calls"),
                (rate("moderation_api_connections_closed_total", "cause"), "connections closed: {{cause}}"),
                (rate("moderation_api_bodies_cut_total"), "requests cut"),
            ),
            panel(
                "Connections", "To the API's port.", "short",
                ("max by (instance) (moderation_api_connections)", "{{instance}}"),
            ),
            panel(
                "Duration of lookups", "Without waits and watches: the caller chooses how long they last.", "s",
                (quantile(0.5, "moderation_api_call_seconds", "method", LOOKUPS), "{{method}} p50"),
                (quantile(0.99, "moderation_api_call_seconds", "method", LOOKUPS), "{{method}} p99"),
            ),
            panel(
                "Age of the view",
                "Oldest missing record; standstill; time since the brokers last reported the topic's end.", "s",
                ("max by (instance) (moderation_view_lag_seconds)", "{{instance}}"),
                ("max by (instance) (moderation_view_standstill_seconds)", "{{instance}} standstill"),
                ("max by (instance) (moderation_view_topic_end_age_seconds)", "{{instance}} topic's end"),
            ),
            panel(
                "Records that the view lacks",
                "Records that are not in the view yet. `stalled` is 1 while the store refuses writes.", "short",
                ("max by (instance) (moderation_view_lag_records)", "{{instance}}"),
                ("max by (instance) (moderation_view_stalled)", "{{instance}} stalled"),
            ),
            panel(
                "Waiting callers", "Posts submitted through the API that wait for a verdict; open watches.", "short",
                ("sum(moderation_api_pending_posts)", "pending posts"), ("sum(moderation_api_watches)", "watches"),
            ),
            panel(
                "Size of the view", "Size of its files.", "bytes",
                ("max by (instance) (moderation_view_bytes)", "{{instance}}"),
            ),
            panel(
                "Folding", "Records folded in and posts evicted, per second.", "cps",
                (rate("moderation_view_folded_records_total", "instance"), "{{instance}} folded"),
                (rate("moderation_view_pruned_posts_total", "instance"), "{{instance}} evicted"),
            ),
            panel(
                "Certificate", "Time until it expires.", "s",
                ("min by (instance) (moderation_api_certificate_expiry_timestamp_seconds) - time()", EACH),
            ),
            panel(
                "Age of the keys", "Since the keys of bearer tokens were last read.", "s",
                ("max by (instance) (moderation_jwt_keys_age_seconds)", "{{instance}}"),
            ),
        ],
    ),
    (
        "Health",
        [
            panel(
                "Event loop", "Delay, 99th percentile. Kafka heartbeats run on this loop.", "s",
                (quantile(0.99, "moderation_loop_lag_seconds", "instance"), "{{instance}}"),
                ("max by (instance) (moderation_loop_tick_age_seconds)", "{{instance}} since its last tick"),
            ),
            panel(
                "Kafka's last answer", "Time since a broker last answered, by process.", "s",
                by_instance("moderation_kafka_answer_age_seconds"),
            ),
            panel("CPU", "Cores in use.", "short", (rate("process_cpu_seconds_total", "instance", OURS), EACH)),
            panel("Memory", "Resident.", "bytes", (f"sum by (instance) (process_resident_memory_bytes{OURS})", EACH)),
            panel(
                "Memory of the container", "Share of its limit, without the page cache of files.", "percentunit",
                ("max by (instance) (moderation_memory_bytes / moderation_memory_limit_bytes)", EACH),
            ),
            panel(
                "Ready", "1: it can work. Lines that break and begin again are restarts.", "short",
                ("max by (role, instance) (moderation_ready)", "{{role}} {{instance}}"),
            ),
            panel(
                "Age of the process", "Since its start.", "s",
                ("time() - max by (role, instance) (moderation_start_timestamp_seconds)", "{{role}} {{instance}}"),
            ),
            panel(
                "Posts that were not encoded in time", "In ten minutes.", "short",
                ("sum by (instance) (increase(moderation_encode_timeouts_total[10m]))", "{{instance}}"),
            ),
            panel(
                "Posts that ended a process", "Attempted alone, and given up, in ten minutes.", "short",
                ("sum(increase(moderation_posts_attempted_alone_total[10m]))", "attempted alone"),
                ("sum(increase(moderation_posts_given_up_total[10m]))", "given up"),
            ),
            panel(
                "Log", "Lines that wait to be written; dropped lines and failed writes in ten minutes.", "short",
                ("max by (instance) (moderation_log_lines_waiting)", "{{instance}} waiting"),
                ("sum by (instance) (increase(moderation_log_lines_dropped_total[10m]))", "{{instance}} dropped"),
                (
                    "sum by (instance, cause) (increase(moderation_log_write_errors_total[10m]))",
                    "{{instance}} failed: {{cause}}",
                ),
            ),
            panel("Processes", "Versions and roles.", "short", ("moderation_build_info", ""), kind="table"),
            panel("Models", "The model of each worker.", "short", ("moderation_model_info", ""), kind="table"),
            panel("Policies", "Version and status, by role.", "short", ("moderation_policy_info", ""), kind="table"),
            panel("Age of the policies", "Since a role read them: later changes are not in use.", "s", (AGE, EACH)),
        ],
    ),
]  # fmt: skip


def dashboard() -> dict[str, Any]:
    """The dashboard: rows from top to bottom, panels from left to right."""
    panels: list[Any] = []
    top = 0
    for title, members in ROWS:
        panels.append(
            {"type": "row", "title": title, "collapsed": False, "gridPos": {"x": 0, "y": top, "w": WIDTH, "h": 1}}
        )
        left, top, tallest = 0, top + 1, 0
        for member in members:
            place = member["gridPos"]
            if left + place["w"] > WIDTH:
                left, top, tallest = 0, top + tallest, 0
            place |= {"x": left, "y": top}
            left, tallest = left + place["w"], max(tallest, place["h"])
            panels.append(member)
        top += tallest
    return {
        "uid": "moderation",
        "title": "Moderation",
        "description": "Posts in, verdicts out: lag, rates and outcomes.",
        "tags": ["moderation"],
        "schemaVersion": 41,
        "version": 1,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "browser",
        "templating": {"list": VARIABLES},
        "annotations": {"list": []},
        "links": [],
        "panels": [{"id": number, **panel} for number, panel in enumerate(panels, 1)],
    }


def text() -> str:
    """The content of dashboard.json."""
    return json.dumps(dashboard(), indent=1) + "\n"
