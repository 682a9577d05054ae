"""The values above which something is wrong: thresholds of the alerts in deploy/observe/rules.yaml, as a test checks.

An alert fires once the value has stayed there for a while. The page shows it at once.
"""

from __future__ import annotations

DAY_S = 86_400.0
OPEN_TRANSACTION_S = 300.0  # of a standstill of either role where records are behind an open transaction

LIMITS = {
    "moderation_kafka_answer_age_seconds": 60.0,
    "moderation_worker_lag_seconds": 600.0,
    "moderation_worker_standstill_seconds": 600.0,
    "moderation_worker_oldest_post_seconds": 300.0,
    "moderation_view_lag_seconds": 30.0,
    "moderation_view_standstill_seconds": 300.0,
    "moderation_view_topic_end_age_seconds": 60.0,
    "moderation_jwt_keys_age_seconds": 1800.0,
    "moderation_log_lines_waiting": 1000.0,
    "moderation_loop_tick_age_seconds": 10.0,
    "moderation_clock_skew_seconds": 60.0,  # either way
    "moderation_memory_bytes": 0.9,  # of the limit
    "moderation_api_certificate_expiry_timestamp_seconds": 7 * DAY_S,  # that are left
    "moderation_policy_certificate_expiry_timestamp_seconds": 14 * DAY_S,  # that are left
    "moderation_group_foreign_members": 0.0,
    "moderation_records_lost_timestamp_seconds": 3600.0,  # since then: an older loss is history
}

# Shares, between two readings: the alerts look back a quarter of an hour.
DEAD_LETTERS = 0.01  # of the records
UNDETERMINED = 0.05  # of a policy's findings
FEWEST = 3.0  # of either, between the two readings
NO_SCORE = {  # reasons that the alert counts
    "NO_ANSWER",
    "REFUSED",
    "CONTENT_FILTERED",
    "UNAVAILABLE",
    "MODEL_CHANGED",
    "MODEL_FAILED",
    "PICTURES_UNSEEN",
    "DEADLINE_EXCEEDED",
}
