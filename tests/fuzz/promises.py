"""What must hold for any bytes. The unit tests, with Hypothesis, and the fuzzer (`make fuzz`) ask the same functions.

A function here takes bytes, gives them to the code that reads them, and raises whatever the code should not have
raised. AssertionError: the code returned what it should not have returned.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

from moderation import wire
from moderation.errors import ConfigError, PostError
from moderation.media.decoding import decode, decoded_bytes
from moderation.media.limits import Spent
from moderation.media.pixels import PIXEL_BYTES
from moderation.normal_form import normal_form, to_judge
from moderation.policies import PolicySet, checks, schema
from moderation.settings import KafkaSettings, MediaSettings, Settings
from moderation.types import Detail, Image, Post, Problem, Reason, Source
from moderation.wire import explanations
from moderation.wire.ids import id_fault, label_fault

SMALL = MediaSettings(
    max_bytes=1 << 20, max_pixels=1 << 18, max_post_pixels=1 << 20, max_images=3, max_text_chars=9_999
)
SETTINGS = Settings(media=SMALL, kafka=KafkaSettings(schema_registry=True))
HEADERS: tuple[wire.Headers, ...] = (
    [],
    [("content-type", b"application/x-protobuf")],
    [("content-type", b"application/json")],
)
PATH = r"(?:id|text|tenant|language|surface|content-type|images(?:\[\d{1,4}\](?:\.(?:data|uri|alt))?)?)"
DETAIL = "|".join(re.escape(detail) for detail in Detail)
# All that an error of a post may say, to whomever: a path and a detail, or one of a few sentences of ours.
SAID = re.compile(
    rf"|{PATH}|{DETAIL}|{PATH}: (?:{DETAIL})|{PATH} (?:is empty|is longer than \d+ bytes|holds a (?:{DETAIL}))"
    r"|content-type is none of [a-z/, -]+|the value has the prefix of a schema registry: set [A-Z_]+=true"
)
OF_PICTURES = frozenset(
    {Reason.IMAGE_TOO_LARGE, Reason.IMAGE_SHAPE, Reason.IMAGE_UNSUPPORTED, Reason.IMAGE_CORRUPT}
    | {reason for reason in Reason if reason == "FRAMES_UNSEEN"}
)
LINE_ENDS = (b"\n", b"\r", b"\xc2\x85", b"\xe2\x80\xa8", b"\xe2\x80\xa9")  # of YAML
NAME = "lakes"  # of the policy's file


def wire_values(data: bytes) -> None:
    """Any value of any topic becomes a post, a verdict or an error that holds nothing of the value.

    The first byte chooses the headers, and whether prefixes of a schema registry are read.
    """
    choice, value = (data[0] if data else 0), data[1:]
    headers = HEADERS[choice % 3]
    if choice % 16 == 15:
        name, _, value = value.partition(b"\n")
        headers = [("content-type", name)]
    try:
        post = wire.post_record(value, headers, SMALL, schema_registry=choice % 8 >= 4)
    except PostError as error:
        assert SAID.fullmatch(str(error)), "an error says what it should not"
        _check_problem(error.problem)
        _check_known(error.known)
    else:
        _check_post(post)
    _check_known(wire.known(value))
    explanations.explain(value, value, headers, SETTINGS)
    try:
        message = wire.read_verdict(value, headers)
        wire.verdict_from_message(message)
    except ValueError:
        pass
    else:
        assert message.post_id
    record_headers(value)


def record_headers(data: bytes) -> None:
    """Any key and any headers become an id, marks of a dead letter, and the source of an erasure."""
    parts = data.split(b"\n", 16)
    headers = [(name.decode("latin-1"), value) for name, _, value in (part.partition(b"=") for part in parts)]
    source = Source("posts", 1, 2, 3)
    assert not id_fault(wire.post_id_for(data, source))
    for mark in wire.dead_letter_marks(headers).values():
        assert "\n" not in mark
    wire.replay_of(headers)
    wire.erased_source(headers)
    wire.erased_topic_id(headers)
    copied = wire.erasure("a", source, headers, now_ms=5)
    assert copied.at_ms <= 5, "an erasure would reach posts that are yet to come"
    named = wire.dead_letter_headers(source, headers, Problem(Reason.NULL_VALUE), "group")
    assert all(isinstance(name, str) for name, _ in named)


def _check_post(post: Post) -> None:
    _check_known(post)
    assert post.id
    post.text.encode()  # raises for half a character
    for image in post.images:
        image.alt.encode()
        _check_image(image)


def _check_image(image: Image) -> None:
    if image.problem is None:
        assert (image.data is None) != (image.uri is None)
        assert len(image.data or b"") <= SMALL.max_bytes
    else:
        _check_problem(image.problem)


def _check_known(post: Post | None) -> None:
    if post is not None:
        assert not post.id or not id_fault(post.id)
        assert not any(map(label_fault, (post.tenant, post.language, post.surface)))


def _check_problem(problem: Problem) -> None:
    assert SAID.fullmatch(str(problem)), "a problem says what it should not"


def pictures(file: bytes) -> None:
    """Any file becomes pictures within all limits, or a reason. Pictures before the reason are good."""
    expected, spent, size = decoded_bytes(file, SMALL), Spent(), 0
    try:
        for picture in decode(file, SMALL, spent):
            picture.load()
            assert picture.mode == "RGB"
            assert max(picture.size) <= max(SMALL.max_aspect * min(picture.size), SMALL.max_aspect)
            size += PIXEL_BYTES * picture.width * picture.height
    except PostError as error:
        assert error.reason in OF_PICTURES, error.reason
    assert size <= expected, f"{size} bytes were decoded, and {expected} were taken from the budget"


def policies(file: bytes) -> None:
    """Any file in a folder of policies is a policy, or has mistakes, each of one line that names where it is."""
    folder, empty = _folders()
    (folder / f"{NAME}.yaml").write_bytes(file)
    checked = checks.check(folder, against=empty)
    lines = 1 + sum(map(file.count, LINE_ENDS))
    for mistake in checked.mistakes:
        assert "\n" not in str(mistake)
        assert 0 <= mistake.line <= lines
    assert checked.policies or checked.errors
    for policy in checked.policies:
        assert schema.Policy.model_validate(policy.model_dump()) == policy
        try:
            whole = PolicySet.of([policy])
        except ConfigError:
            assert not policy.counts
            continue
        for post in (Post("a", "text", language="de-AT", surface="comment"), Post("a")):
            assert whole.on_error_for(post)
            assert len(whole.asked_of(post)) + len(whole.skipped_for(post)) == 1


def texts(data: bytes) -> None:
    """Any text has a normal form that is not much longer, and what of it is judged is a part of it."""
    text = data.decode("utf-8", "surrogateescape")
    form = normal_form(text)
    assert len(form) <= 3 * len(text), "the normal form is too long"
    assert bool(to_judge(text)) is (form not in (text, ""))
    assert to_judge(text) in form


@cache
def _folders() -> tuple[Path, Path]:
    """A folder for the policy, and an empty one. This process keeps them."""
    keeper = tempfile.TemporaryDirectory(prefix="moderation-fuzz-")
    _KEPT.append(keeper)
    paths = Path(keeper.name) / "now", Path(keeper.name) / "before"
    for path in paths:
        path.mkdir()
    return paths


_KEPT: list[tempfile.TemporaryDirectory[str]] = []
PROMISES: Mapping[str, Callable[[bytes], None]] = {
    "wire": wire_values,
    "pictures": pictures,
    "policies": policies,
    "texts": texts,
}
