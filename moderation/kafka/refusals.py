"""What the brokers' refusals mean: which right is missing on which resource, what else is wrong, and what to do.

aiokafka raises little of it. An error of a transaction comes without its topic, or wrapped in another error. What may
succeed later is tried again until some deadline, and then the deadline is all that is raised. So `watch` reads the
error codes in each response to a client, and `failure` makes the error that ends the process.
"""

from __future__ import annotations

import logging
import shlex
import ssl
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import structlog
from aiokafka import TopicPartition
from aiokafka.errors import (
    BrokerResponseError,
    ClusterAuthorizationFailedError,
    GroupAuthorizationFailedError,
    IllegalSaslStateError,
    IncompatibleBrokerVersion,
    KafkaError,
    NodeNotReadyError,
    SaslAuthenticationFailed,
    TopicAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    UnknownError,
    UnsupportedSaslMechanismError,
    for_code,
)

from moderation.errors import ConfigError, DeliveryError
from moderation.kafka import tools
from moderation.settings import KafkaSettings

RECENT_S = 60.0  # a refusal that is older explains no error
REPORT_S = 10.0  # a refusal that lasts so long is logged
REPORT_AGAIN_S = 60.0  # between two lines about it
IN_A_REBALANCE = {22, 25, 27, 79}  # codes by which a group moves its members

# Kafka's numbers of requests.
PRODUCE, FETCH, LIST_OFFSETS, COMMIT, FETCH_COMMITTED, FIND_COORDINATOR = 0, 1, 2, 8, 9, 10
JOIN, HEARTBEAT, LEAVE, SYNC = 11, 12, 13, 14
INIT_PRODUCER, ADD_PARTITIONS, ADD_OFFSETS, END_TRANSACTION, COMMIT_IN_TRANSACTION = 22, 24, 25, 26, 28

# The right that a request needs on a topic, and on a group.
ON_TOPIC = {
    PRODUCE: "Write",
    FETCH: "Read",
    LIST_OFFSETS: "Describe",
    COMMIT: "Read",
    FETCH_COMMITTED: "Describe",
    ADD_PARTITIONS: "Write",
    COMMIT_IN_TRANSACTION: "Read",
}
ON_GROUP = {FETCH_COMMITTED: "Describe", FIND_COORDINATOR: "Describe"}  # the others: Read
REQUESTS = {*ON_TOPIC, FIND_COORDINATOR, JOIN, HEARTBEAT, LEAVE, SYNC, INIT_PRODUCER, ADD_OFFSETS, END_TRANSACTION}

RIGHTS = (
    TopicAuthorizationFailedError,
    GroupAuthorizationFailedError,
    TransactionalIdAuthorizationFailed,
    ClusterAuthorizationFailedError,
)
LOGIN = (SaslAuthenticationFailed, UnsupportedSaslMechanismError, IllegalSaslStateError)

log = structlog.get_logger()


class Meaning(NamedTuple):
    """What a code of an error means, beside those of rights."""

    text: str  # with the fields topic, group and id
    name: str = ""  # of the error, if aiokafka does not know the code
    by_operator: bool = False  # nothing repairs it but an operator


ANOTHER_KIND = Meaning(
    "group {group} is used by consumers or tools of another kind, or has another type (share, streams). End them, or "
    "set MODERATION_KAFKA__GROUP to a group that only these workers use (it is also in the name of the dead-letter "
    "topic)",
    by_operator=True,
)
ANOTHER_PRODUCER = (
    "another producer uses the transactional id {id}: another worker has taken the partition over, or another service "
    "uses the same id"
)
MEANINGS = {
    2: Meaning("a broker finds records of topic {topic} damaged: restore that partition from another replica"),
    3: Meaning("topic {topic} does not exist any more, or was created again"),
    5: Meaning("a partition of topic {topic} has no leader: repair the brokers"),
    6: Meaning("a partition of topic {topic} moves between brokers"),
    10: Meaning("topic {topic} takes no record of this size: raise its max.message.bytes"),
    15: Meaning("no broker coordinates group {group}, or the transactional id {id}: repair the brokers"),
    17: Meaning("{topic} is no name of a topic", by_operator=True),
    18: Meaning("topic {topic} takes no batch of this size: raise its segment.bytes"),
    19: Meaning("topic {topic} has fewer replicas in sync than its min.insync.replicas: repair the brokers"),
    20: Meaning("topic {topic} has fewer replicas in sync than its min.insync.replicas: repair the brokers"),
    23: ANOTHER_KIND,
    24: Meaning("MODERATION_KAFKA__GROUP: {group} is no name of a group", by_operator=True),
    26: Meaning(
        "MODERATION_KAFKA__SESSION_TIMEOUT_MS is outside of what the brokers allow (group.min.session.timeout.ms, "
        "group.max.session.timeout.ms)",
        by_operator=True,
    ),
    32: Meaning("topic {topic} refuses the time of a record: the clock of this machine is wrong"),
    44: Meaning("a policy of the brokers refuses records on topic {topic}", by_operator=True),
    47: Meaning(ANOTHER_PRODUCER),
    50: Meaning(
        "MODERATION_KAFKA__TRANSACTION_TIMEOUT_MS is above the brokers' transaction.max.timeout.ms", by_operator=True
    ),
    51: Meaning("an earlier transaction of the transactional id {id} has not ended"),
    56: Meaning("a broker cannot write topic {topic}: its disk is full or has failed"),
    69: ANOTHER_KIND,
    81: Meaning("group {group} has as many members as the brokers' group.max.size", "GroupMaxSizeReached"),
    87: Meaning(
        "topic {topic} refuses a record: a compacted topic takes none without a key", "InvalidRecord", by_operator=True
    ),
    90: Meaning(ANOTHER_PRODUCER, "ProducerFenced"),
}


class Refusal(NamedTuple):
    """A code that a broker has answered."""

    code: int
    request: int
    topic: str  # empty: the request was refused as a whole
    partition: int
    since: float  # by time.monotonic

    @property
    def error(self) -> type[BrokerResponseError]:
        """aiokafka's error."""
        found: type[BrokerResponseError] = for_code(self.code)
        return found

    @property
    def name(self) -> str:
        """The error's name."""
        meaning = MEANINGS.get(self.code)
        return (meaning and meaning.name) or (self.error.__name__ if self.error is not UnknownError else str(self.code))


class Refusals:
    """What brokers have refused to a client and not granted since."""

    def __init__(self, client: Any) -> None:
        """client: an AIOKafkaClient."""
        self._cluster = client.cluster
        self._standing: dict[tuple[int, str, int], Refusal] = {}
        self._latest: dict[tuple[int, str, int], float] = {}
        self._reported: dict[tuple[int, str, int], float] = {}
        self.throttled_s = 0.0  # for how long a quota held the client up the last time; 0: it did not
        self.unreachable: BaseException | None = None  # why the last request was not sent

    @property
    def hidden(self) -> set[str]:
        """Topics that the brokers do not let the client see. aiokafka waits for such a topic without end."""
        denied = (refusal for refusal in self._standing.values() if refusal.error is TopicAuthorizationFailedError)
        return {*self._cluster.unauthorized_topics, *(each.topic for each in denied if each.request == LIST_OFFSETS)}

    def note(self, response: Any) -> None:
        """Reads the error codes of a response."""
        request = getattr(response, "API_KEY", None)
        if request not in REQUESTS:
            return
        now = time.monotonic()
        self.unreachable = None
        self.throttled_s = getattr(response, "throttle_time_ms", 0) / 1000
        for topic, partition, code in _codes(request, response):
            place = request, topic, partition
            if not code:
                for kept in (self._standing, self._latest, self._reported):
                    kept.pop(place, None)
                continue
            standing = self._standing.get(place)
            if standing is None or standing.code != code:
                standing = self._standing[place] = Refusal(code, request, topic, partition, now)
            self._latest[place] = now
            self._report(place, standing, now)

    def explaining(self, errors: list[BaseException]) -> Refusal | None:
        """The latest refusal that one of these errors is about. Errors that name no code may be about any refusal.

        A missing right comes first. The other requests of its transaction are refused for other reasons.
        """
        codes = {error.errno for error in errors if isinstance(error, BrokerResponseError)} - {UnknownError.errno}
        oldest = time.monotonic() - RECENT_S
        recent = [place for place, at in self._latest.items() if at >= oldest]
        rights = [place for place in recent if issubclass(self._standing[place].error, RIGHTS)]
        fitting = rights or [place for place in recent if not codes or self._standing[place].code in codes]
        return self._standing[max(fitting, key=self._latest.__getitem__)] if fitting else None

    def _report(self, place: tuple[int, str, int], refusal: Refusal, now: float) -> None:
        """Logs what stands for long: aiokafka tries again without end, and all there is to see is a standstill."""
        if now - refusal.since < REPORT_S or refusal.code in IN_A_REBALANCE:
            return
        if now - self._reported.get(place, -REPORT_AGAIN_S) < REPORT_AGAIN_S:
            return
        self._reported[place] = now
        log.warning(
            "request_refused",
            topic=refusal.topic or None,
            partition=refusal.partition if refusal.topic else None,
            error=refusal.name,
            seconds=round(now - refusal.since),
        )


def _codes(request: int, response: Any) -> Iterator[tuple[str, int, int]]:
    """Yields topic, partition and code; the topic is empty for the code of the whole response."""
    if (code := getattr(response, "error_code", None)) is not None:
        yield "", -1, code
    at = 3 if request == FETCH_COMMITTED else 1
    rows = getattr(response, "errors" if request in (ADD_PARTITIONS, COMMIT_IN_TRANSACTION) else "topics", None)
    for topic, partitions in rows or ():
        for row in partitions:
            yield topic, row[0], row[at]


class _ConnectErrors(logging.Filter):
    """Keeps the last error of a connection. aiokafka logs it, and raises another one that does not name it."""

    def __init__(self) -> None:
        super().__init__()
        self._last: BaseException | None = None
        self._at = 0.0

    @property
    def last(self) -> BaseException | None:
        """The error; None: there was none of late."""
        return self._last if time.monotonic() - self._at < RECENT_S else None

    def filter(self, record: logging.LogRecord) -> bool:
        args = record.args if isinstance(record.args, tuple) else ()
        for arg in args:
            if isinstance(arg, BaseException):
                self._last, self._at = arg, time.monotonic()
        return True


_connect_errors = _ConnectErrors()


def watch(client: Any) -> Refusals:
    """Reads all responses to `client`, an AIOKafkaClient, from now on."""
    logging.getLogger("aiokafka").addFilter(_connect_errors)  # adding it twice changes nothing
    refusals = Refusals(client)

    async def watched(*arguments: Any, **options: Any) -> Any:
        try:
            response = await type(client).send(client, *arguments, **options)
        except IncompatibleBrokerVersion:  # nothing was sent
            raise
        except KafkaError as error:
            refusals.unreachable = (_connect_errors.last if isinstance(error, NodeNotReadyError) else None) or error
            raise
        refusals.note(response)
        return response

    client.send = watched
    return refusals


def chain(error: BaseException | None) -> list[BaseException]:
    """The error and its causes."""
    errors: list[BaseException] = []
    while error is not None and error not in errors:
        errors.append(error)
        error = error.__cause__
    return errors


def failure(settings: KafkaSettings, what: str, error: BaseException, *clients: Any) -> ConfigError | DeliveryError:
    """The error to end the process with. `what`: what has failed. `clients`: those that may have been refused;
    their attribute `refusals` says what.

    A ConfigError if only an operator can repair it: a right, a login, a setting. A DeliveryError otherwise.
    """
    if isinstance(getattr(error, "partition", None), TopicPartition):  # an UnreadableError says all itself
        return DeliveryError(f"{what}: {error}")
    errors = chain(error)
    known = [client.refusals for client in clients if getattr(client, "refusals", None) is not None]
    unreachable = next((refusals.unreachable for refusals in known if refusals.unreachable), None)
    refusal = next((found for refusals in known if (found := refusals.explaining(errors))), None)
    codes = [each.errno for each in errors if isinstance(each, BrokerResponseError)]
    if codes and refusal is None:
        refusal = Refusal(codes[-1], -1, _topic(errors), -1, 0.0)
    elif refusal is not None and unreachable and not codes and not issubclass(refusal.error, RIGHTS):
        refusal = None  # brokers refused something before they went away
    name = type(error).__name__
    if refusal is None and (hidden := set[str]().union(*(refusals.hidden for refusals in known))):
        return missing_right(settings, what, "Describe", "topic", min(hidden))
    if refusal is not None:
        if issubclass(refusal.error, RIGHTS):
            return _without_right(settings, what, refusal, errors)
        if issubclass(refusal.error, LOGIN):
            return ConfigError(f"{what}: {login(settings, refusal.error)}")
        if refusal.code in MEANINGS:
            meaning = MEANINGS[refusal.code]
            text = meaning.text.format(
                topic=refusal.topic or _topic(errors) or settings.posts_topic,
                group=settings.group,
                id=_transactional_id(clients) or f"{transactional_ids(settings)}*",
            )
            kind = ConfigError if meaning.by_operator else DeliveryError
            return kind(f"{what}: {refusal.name}: {text}")
        if refusal.error is not UnknownError:
            name = refusal.name if refusal.name == name else f"{name}, after {refusal.name}"
    elif unreachable:
        if reason := for_good(settings, unreachable):
            return DeliveryError(f"{what}: {name}: a broker refuses new connections: {reason}")
        name = f"{name}: a broker does not respond ({type(unreachable).__name__})"
    elif throttled := max((refusals.throttled_s for refusals in known), default=0.0):
        name = f"{name}: a quota of the brokers holds this client up ({throttled:.1f} s at a time)"
    return DeliveryError(f"{what}: {name}")


def for_good(settings: KafkaSettings, error: BaseException) -> str:
    """Why a connection is refused, if trying again does not help: a login or a certificate. Otherwise empty."""
    if isinstance(error, LOGIN):
        return login(settings, type(error))
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"their certificate is not valid here ({error.verify_message}): see MODERATION_KAFKA__SSL_CA"
    if isinstance(error, ssl.SSLError) and error.reason == "WRONG_VERSION_NUMBER":
        return "they do not speak TLS on this port: see MODERATION_KAFKA__SECURITY_PROTOCOL"
    if isinstance(error, ssl.SSLError) and "ALERT" in (error.reason or ""):
        return f"they refuse this client's certificate ({error.reason}): see MODERATION_KAFKA__SSL_CERTIFICATE"
    return ""


def login(settings: KafkaSettings, error: type[BaseException]) -> str:
    """Why a login is refused."""
    if issubclass(error, SaslAuthenticationFailed):
        return f"they refuse the login of {settings.sasl_username}: see MODERATION_KAFKA__SASL_*"
    return f"they do not take logins by {settings.sasl_mechanism}: see MODERATION_KAFKA__SASL_MECHANISM"


def transactional_ids(settings: KafkaSettings) -> str:
    """What the transactional ids of all workers begin with."""
    return f"{settings.group}-{settings.posts_topic}-"


def missing_right(settings: KafkaSettings, what: str, right: str, kind: str, name: str) -> ConfigError:
    """A right that the brokers do not grant. kind: `topic`, `group` or `transactional-id`, whose name is a prefix."""
    user = settings.sasl_username if settings.security_protocol.startswith("SASL") else ""
    prefixed = kind == "transactional-id"
    resource = f"{kind.replace('-', ' ')}{'s that begin with' if prefixed else ''} {name}"
    who = user or "this role's user (NAME below)"
    command = (
        f"--add --allow-principal {shlex.quote(f'User:{user}') if user else 'User:NAME'} --operation {right} "
        f"--{kind} {name}{' --resource-pattern-type prefixed' if prefixed else ''}"
    )
    return ConfigError(
        f"{what}: {who} lacks the right {right} on {resource}. Give it back, or remove the rule that denies it:",
        commands=[tools.command(settings, "kafka-acls.sh", command)],
    )


def _without_right(settings: KafkaSettings, what: str, refusal: Refusal, errors: list[BaseException]) -> ConfigError:
    if issubclass(refusal.error, GroupAuthorizationFailedError):
        return missing_right(settings, what, ON_GROUP.get(refusal.request, "Read"), "group", settings.group)
    if issubclass(refusal.error, TransactionalIdAuthorizationFailed):
        right = "Describe" if refusal.request == FIND_COORDINATOR else "Write"
        return missing_right(settings, what, right, "transactional-id", transactional_ids(settings))
    if issubclass(refusal.error, ClusterAuthorizationFailedError):
        # An idempotent producer needs a right to write any topic. Ours write one. Brokers before 2.8 ask for
        # IdempotentWrite on the cluster.
        return missing_right(settings, what, "Write", "topic", settings.posts_topic)
    topic = refusal.topic or _topic(errors) or settings.posts_topic
    fetched = any(isinstance(error, TopicAuthorizationFailedError) and error.args == (topic,) for error in errors)
    right = ON_TOPIC.get(refusal.request, "Read" if fetched else "Describe")  # a client that is not known here
    return missing_right(settings, what, right, "topic", topic)


def _topic(errors: list[BaseException]) -> str:
    """The topic that aiokafka's error is about, if the error has it: as a name, or a set of names."""
    for error in errors:
        if isinstance(error, TopicAuthorizationFailedError) and error.args:
            (names,) = error.args[:1]
            return names if isinstance(names, str) else str(getattr(names, "topic", None) or min(names))
    return ""


def _transactional_id(clients: tuple[Any, ...]) -> str:
    managers = (getattr(client, "_txn_manager", None) for client in clients)
    return next((str(manager.transactional_id) for manager in managers if manager and manager.transactional_id), "")
