"""What is wrong, in words, with the culprit: the first lines of the page.

A metric that an endpoint does not have, as in an older version, says nothing.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping

from moderation.cli.top.cells import count, seconds, size
from moderation.cli.top.limits import (
    DAY_S,
    DEAD_LETTERS,
    FEWEST,
    LIMITS,
    NO_SCORE,
    OPEN_TRANSACTION_S,
    UNDETERMINED,
)
from moderation.cli.top.reading import Reading
from moderation.cli.top.sums import Frame

EXPIRY = "moderation_api_certificate_expiry_timestamp_seconds"
POLICY_EXPIRY = "moderation_policy_certificate_expiry_timestamp_seconds"
LOST_AT = "moderation_records_lost_timestamp_seconds"
PARTS = 5  # names of one line; further ones are counted


def found(frame: Frame, wall: float | None = None) -> list[str]:
    """Returns a line for each trouble, the worst first. `wall`: the time since 1970, if it is not now."""
    now = time.time() if wall is None else wall
    lines = [f"{reading.name} does not answer: {reading.problem}" for reading in frame.now if reading.problem]
    read = [reading for reading in frame.now if not reading.problem]
    for rule in (_kafka, _loop, _not_ready, _view):
        lines += [line for reading in read for line in rule(reading)]
    lines += [*_model_server(frame), *_unassigned(frame), *_partitions(read), *_group(read), *_lost(read, now)]
    lines += [*_uncertified(read), *_clocks(read), *_dead_letters(frame), *_undetermined(frame)]
    for rule in (_memory, _keys, _log):
        lines += [line for reading in read for line in rule(reading)]
    lines += [line for reading in read for line in _certificate(reading, now)]
    return [*lines, *_policy_certificates(read, now), *_policies(read)]


def _first(reading: Reading, name: str, role: str = "") -> float | None:
    """The value of a metric without labels; None if the endpoint does not have it."""
    return next((value for _, value in reading.values(name, role)), None)


def _over(reading: Reading, name: str, role: str = "") -> float | None:
    """The value of a metric, if it is above its limit."""
    value = _first(reading, name, role)
    return value if value is not None and value > LIMITS[name] else None


def _kafka(reading: Reading) -> Iterator[str]:
    if (age := _over(reading, "moderation_kafka_answer_age_seconds")) is not None:
        yield f"Kafka is away: no broker has answered {_who(reading)} for {seconds(age)}"


def _loop(reading: Reading) -> Iterator[str]:
    if (age := _over(reading, "moderation_loop_tick_age_seconds")) is not None:
        yield f"the event loop of {_who(reading)} has stood still for {seconds(age)}"


def _not_ready(reading: Reading) -> Iterator[str]:
    if _first(reading, "moderation_ready") == 0:
        yield f"{_who(reading)} is not ready"


def _view(reading: Reading) -> Iterator[str]:
    """What is wrong with the view of an API. The causes come first: a view that is stalled is behind, too."""
    api, who = "api", f"the view of {reading.name}"
    behind = _first(reading, "moderation_view_lag_records", api)
    age = _over(reading, "moderation_view_lag_seconds", api)
    still = _over(reading, "moderation_view_standstill_seconds", api)
    unknown = _over(reading, "moderation_view_topic_end_age_seconds", api)
    unstable = _first(reading, "moderation_view_unstable_records", api) or 0
    if _first(reading, "moderation_view_stalled", api):
        yield f"{who} is stalled: its store takes no writes, {_records(behind)} are not in it"
    elif unknown is not None:
        yield f"{who} does not know how far it is behind: where the topic ends is unknown for {seconds(unknown)}"
    elif still is not None or age is not None:
        slow = f"is {seconds(age)} behind" if still is None and age else f"stands still for {seconds(still or 0)}"
        yield f"{who} {slow}: {_records(behind)} are not in it{_behind_transaction(unstable)}"


def _unassigned(frame: Frame) -> Iterator[str]:
    """Workers that are ready, none of which has a partition. In a rebalance they have none for a moment."""
    name = "moderation_worker_partitions"
    ready = [reading for reading in frame.now if _first(reading, "moderation_ready", "worker")]
    if ready and all(_first(reading, name, "worker") == 0 for reading in ready):
        urls = {reading.url for reading in ready}
        if not any(_first(reading, name) for reading in frame.before if reading.url in urls):
            yield f"no partition of the posts topic is assigned to {_list('worker', [each.name for each in ready])}"


def _partitions(readings: Iterable[Reading]) -> Iterator[str]:
    """What is wrong with partitions of the posts topic. Of several workers that show one, the largest value counts."""
    readings = list(readings)
    lag, unstable = (
        _by_partition(readings, f"moderation_worker_{name}") for name in ("lag_records", "unstable_records")
    )
    still = _by_partition(readings, "moderation_worker_standstill_seconds")
    held = {each: value for each, value in still.items() if value > OPEN_TRANSACTION_S and unstable.get(each, 0) > 0}
    behind, standing, stuck = (
        {each: value for each, value in _over_limit(readings, f"moderation_worker_{name}").items() if each not in held}
        for name in ("lag_seconds", "standstill_seconds", "oldest_post_seconds")
    )
    if any(value for reading in readings for _, value in reading.values("moderation_model_outage")):
        standing, stuck = {}, {}  # they wait for the model server
    for stands in (held, standing):
        if stands:
            transaction = _behind_transaction(sum(unstable.get(each, 0) for each in stands) if stands is held else 0)
            records = _records(sum(lag.get(each, math.nan) for each in stands))
            yield f"{_named(stands)} without a commit: {records} wait{transaction}"
    if late := {each: value for each, value in behind.items() if each not in standing}:
        yield _named(late, "is behind by", "are behind by")
    if alone := {each: value for each, value in stuck.items() if each not in standing}:
        yield f"a post makes no progress: {_named(alone, 'has had it in hand for', 'have had one in hand for')}"
    unknown = {each for each, value in lag.items() if math.isnan(value)} - held.keys() - standing.keys()
    if unknown and not any(line for reading in readings for line in _kafka(reading)):
        yield f"the lag of {_list('partition', sorted(unknown, key=_number))} is unknown"


def _by_partition(readings: Iterable[Reading], name: str) -> dict[str, float]:
    """The largest value of each partition; NaN if no worker knows it."""
    values: dict[str, float] = {}
    for reading in readings:
        for labels, value in reading.values(name, "worker"):
            if (partition := labels.get("partition")) is not None:
                values[partition] = max(value, values.get(partition, math.nan), key=_known)
    return values


def _known(value: float) -> float:
    return -math.inf if math.isnan(value) else value


def _over_limit(readings: Iterable[Reading], name: str) -> dict[str, float]:
    return {partition: value for partition, value in _by_partition(readings, name).items() if value > LIMITS[name]}


def _named(values: Mapping[str, float], one: str = "stands still for", several: str = "stand still for") -> str:
    """The partitions and their time, the longest of several."""
    parts = _list("partition", sorted(values, key=_number))
    longest = seconds(max(values.values()))
    return f"{parts} {one} {longest}" if len(values) == 1 else f"{parts} {several} up to {longest}"


def _list(noun: str, names: list[str]) -> str:
    rest = f" and {len(names) - PARTS} more" if len(names) > PARTS else ""
    return f"{noun}{'s' if len(names) > 1 else ''} {', '.join(names[:PARTS])}{rest}"


def _number(partition: str) -> int:
    return int(partition) if partition.isdecimal() else -1


def _behind_transaction(unstable: float) -> str:
    return f", {count(unstable)} of them behind an open transaction" if unstable > 0 else ""


def _records(number: float | None) -> str:
    if number is None or math.isnan(number):
        return "an unknown number of records"
    return "1 record" if number == 1 else f"{count(number)} records"


def _model_server(frame: Frame) -> Iterator[str]:
    name = "moderation_model_outage"
    if causes := [cause for cause in frame.labels(name, "cause") if frame.total(name, cause=cause)]:
        given_up = frame.total("moderation_model_outage_given_up")
        then = "posts are decided without it, by on_error" if given_up else "posts wait"
        yield f"the model server gives no answers ({', '.join(causes)}): {then}"


def _group(readings: Iterable[Reading]) -> Iterator[str]:
    """Members of the workers' group that are no workers. Each worker sees the same ones."""
    name = "moderation_group_foreign_members"
    number = max((value for reading in readings if (value := _over(reading, name, "worker"))), default=0.0)
    if number:
        members = "1 member" if number == 1 else f"{count(number)} members"
        are = "is no worker" if number == 1 else "are no workers"
        hold = "it holds" if number == 1 else "they hold"
        yield f"{members} of the workers' group {are}, and nobody judges what {hold}: see `group_shared`"


def _lost(readings: Iterable[Reading], now: float) -> Iterator[str]:
    """Records that Kafka removed before they were read. Each API may find the same ones: the largest number counts."""
    readings = list(readings)
    last: dict[tuple[str, str], float] = {}
    for reading in readings:
        for labels, at in reading.values(LOST_AT):
            key = labels.get("topic", "?"), labels.get("partition", "?")
            last[key] = max(at, last.get(key, 0.0))
    lost: dict[tuple[str, str, str], float] = {}
    for reading in readings:
        for labels, number in reading.values("moderation_records_lost_total"):
            topic, partition, cause = (labels.get(name, "?") for name in ("topic", "partition", "cause"))
            if number > 0 and now - last.get((topic, partition), now) <= LIMITS[LOST_AT]:
                lost[topic, partition, cause] = max(number, lost.get((topic, partition, cause), 0.0))
    for (topic, partition, cause), number in sorted(lost.items()):
        lost_at = last.get((topic, partition))
        when = "" if lost_at is None else f" {seconds(max(0.0, now - lost_at))} ago"
        yield f"lost{when}: {_records(number)} of partition {partition} of the {topic} topic ({cause})"


def _clocks(readings: Iterable[Reading]) -> Iterator[str]:
    producers = 0.0
    for reading in readings:
        for labels, skew in reading.values("moderation_clock_skew_seconds"):
            if not abs(skew) > LIMITS["moderation_clock_skew_seconds"]:
                continue
            if labels.get("clock") == "worker":
                yield f"the clock of {_who(reading)} is {_skew(skew)} the brokers'"
            else:
                producers = max(producers, skew, key=abs)
    if producers:
        yield f"the clock of a producer is {_skew(producers)} the brokers'"


def _skew(skew: float) -> str:
    return f"{seconds(abs(skew))} {'ahead of' if skew > 0 else 'behind'}"


def _dead_letters(frame: Frame) -> Iterator[str]:
    """What share of the records became dead letters between the two readings. A few are no share of anything."""
    name, records = "moderation_dead_letters_total", frame.gain("moderation_verdict_origins_total")
    for reason in frame.labels(name, "reason"):
        letters = frame.gain(name, reason=reason)
        if letters >= FEWEST and letters > DEAD_LETTERS * records:
            yield f"{letters / max(records, letters):.0%} of the records become dead letters ({reason})"


def _undetermined(frame: Frame) -> Iterator[str]:
    """Policies whose questions the model did not answer between the two readings."""
    name = "moderation_findings_undetermined_total"
    for policy in frame.labels("moderation_findings_total", "policy"):
        findings = frame.gain("moderation_findings_total", policy=policy)
        for reason in set(frame.labels(name, "reason")) & NO_SCORE:
            missing = frame.gain(name, policy=policy, reason=reason)
            if missing >= FEWEST and missing > UNDETERMINED * findings:
                yield f"policy {policy} has no score for {missing / max(findings, missing):.0%} of the posts ({reason})"


def _memory(reading: Reading) -> Iterator[str]:
    used, limit = _first(reading, "moderation_memory_bytes"), _first(reading, "moderation_memory_limit_bytes")
    if used is not None and limit and used / limit > LIMITS["moderation_memory_bytes"]:
        yield f"{_who(reading)} uses {size(used)} of memory, near its limit of {size(limit)}"


def _certificate(reading: Reading, now: float) -> Iterator[str]:
    expiry = _first(reading, EXPIRY, "api")
    if not expiry or math.isnan(expiry) or expiry - now >= LIMITS[EXPIRY]:
        return
    yield f"the certificate of {_who(reading)} {_expiry(expiry - now)}"


def _expiry(left: float) -> str:
    when = f"expires in {left / DAY_S:.0f} days" if left > 2 * DAY_S else f"expires in {seconds(max(0.0, left))}"
    return when if left > 0 else f"has expired {seconds(-left)} ago"


def _uncertified(readings: Iterable[Reading]) -> Iterator[str]:
    """Live policies that require a certificate, of which none holds. Each worker says the same."""
    name = "moderation_policy_certificate_info"
    held = {
        (labels.get("policy", "?"), labels.get("standing", "?"))
        for reading in readings
        for labels, _ in reading.values(name, "worker")
        if labels.get("mode") == "live" and labels.get("required") == "yes" and labels.get("standing") != "VALID"
    }
    for policy, standing in sorted(held):
        yield f"policy {policy} removes nothing: it requires a certificate, and none holds ({standing})"


def _policy_certificates(readings: Iterable[Reading], now: float) -> Iterator[str]:
    """Certificates of live policies that soon end. Those that have ended are no news where none is required."""
    ends: dict[str, float] = {}
    for reading in readings:
        for labels, end in reading.values(POLICY_EXPIRY, "worker"):
            if labels.get("mode") == "live" and 0 < end - now < LIMITS[POLICY_EXPIRY]:
                policy = labels.get("policy", "?")
                ends[policy] = min(end, ends.get(policy, math.inf))
    for policy, end in sorted(ends.items()):
        yield f"the certificate of policy {policy} {_expiry(end - now)}"


def _keys(reading: Reading) -> Iterator[str]:
    if (age := _over(reading, "moderation_jwt_keys_age_seconds", "api")) is not None:
        yield f"{_who(reading)} last read the signing keys of bearer tokens {seconds(age)} ago"


def _log(reading: Reading) -> Iterator[str]:
    if (lines := _over(reading, "moderation_log_lines_waiting")) is not None:
        yield f"{count(lines)} log lines of {_who(reading)} wait to be written"


def _policies(readings: Iterable[Reading]) -> Iterator[str]:
    sets = {labels.get("digest") for reading in readings for labels, _ in reading.values("moderation_policies_info")}
    if len(sets) > 1:
        yield f"{len(sets)} policy sets are in use at once: `moderation policies live` says where"


def _who(reading: Reading) -> str:
    return f"{role} {reading.name}" if (role := reading.info.get("role")) else reading.name
