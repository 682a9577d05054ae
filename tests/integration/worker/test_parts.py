"""One part that cannot be read hides nothing of a post: against a real Kafka."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from PIL import Image as pil

from moderation import models
from moderation.models.fake import Fake
from moderation.settings import MediaSettings
from moderation.types import Content, Question
from tests.support.builders import a_file, an_image
from tests.support.harness import POLICY, Harness, a_value, running

BAD, GOOD = "violates:spam", "a quiet day"


def encoded(file: bytes) -> dict[str, str]:
    return {"data": base64.b64encode(file).decode()}


PICTURE = encoded(a_file(an_image(8, 8)))
LARGE = encoded(a_file(pil.new("1", (10_000, 10_000))))
# The text, other fields, and: outcome, first problem, whether there is a dead letter. on_error is allow.
ROWS: dict[str, tuple[str, dict[str, Any], str, tuple[str, str], bool]] = {
    "one byte": (BAD, {"images": [encoded(b"x")]}, "REMOVE", ("IMAGE_UNSUPPORTED", "images[0]"), True),
    "forbidden": (
        BAD, {"images": [PICTURE, {"uri": "http://a.b/c.png"}]}, "REMOVE", ("IMAGE_FORBIDDEN", "images[1].uri"), True
    ),
    "no base64": (BAD, {"images": [{"data": "!"}]}, "REMOVE", ("NOT_DECODABLE", "images[0].data"), True),
    "ninth": (BAD, {"images": [PICTURE] * 9}, "REMOVE", ("TOO_MANY_IMAGES", "images[8]"), False),
    "long, at its end": ("and " * 60 + BAD, {}, "REMOVE", ("TEXT_TOO_LONG", "text"), False),
    "long, at its beginning": (BAD + " and" * 60, {}, "REMOVE", ("TEXT_TOO_LONG", "text"), False),
    "harmless, gone": (GOOD, {"images": [{"uri": "file:///a"}]}, "ALLOW", ("IMAGE_FORBIDDEN", "images[0].uri"), True),
    "harmless, one byte": (GOOD, {"images": [encoded(b"x")]}, "ALLOW", ("IMAGE_UNSUPPORTED", "images[0]"), True),
    "harmless, too large": (GOOD, {"images": [LARGE]}, "REVIEW", ("IMAGE_TOO_LARGE", "images[0]"), False),
    "harmless, long": (GOOD * 60, {}, "REVIEW", ("TEXT_TOO_LONG", "text"), False),
    "harmless, torn": (GOOD, {"images": [encoded(a_file()[:100])]}, "REVIEW", ("IMAGE_CORRUPT", "images[0]"), True),
}  # fmt: skip


def allowing(harness: Harness) -> Harness:
    (harness.settings.policies / "spam.yaml").write_text(POLICY + "on_error: allow\n")
    media = MediaSettings(max_bytes=4 << 20, max_text_chars=200)
    return replace(harness, settings=harness.settings.model_copy(update={"media": media}))


async def test_what_can_be_read_of_a_post_is_judged(harness: Harness) -> None:
    values = [a_value(name, text=text, **fields) for name, (text, fields, *_) in ROWS.items()]
    async with running(allowing(harness)):
        await harness.produce(*((1, b"key", value, []) for value in values))
        verdicts = await harness.verdicts(len(ROWS))
        letters = await harness.dead_letters(sum(row[4] for row in ROWS.values()))
    for (name, (_, _, outcome, (reason, path), _)), verdict in zip(ROWS.items(), verdicts, strict=True):
        assert (verdict["outcome"], verdict["status"]) == (f"OUTCOME_{outcome}", "STATUS_DEGRADED"), name
        assert (verdict["problems"][0]["reason"], verdict["problems"][0]["path"]) == (reason, path), name
        finding = verdict["findings"][0]
        assert (finding["reason"], finding["path"], finding["status"]) == (reason, path, "STATUS_DEGRADED"), name
        assert verdict["reason"] == "", name
    assert [json.loads(letter.value)["id"] for letter in letters] == [
        f"post-{name}" for name, row in ROWS.items() if row[4]
    ]
    codes = [dict(letter.headers)["dlq.error.code"].decode() for letter in letters]
    assert codes == [row[3][0] for row in ROWS.values() if row[4]]


async def test_a_post_of_which_nothing_can_be_read_is_undetermined_and_an_alternative_text_is_read(
    harness: Harness,
) -> None:
    broken = encoded(b"x")
    async with running(allowing(harness)):
        await harness.produce(
            (1, b"key", a_value("nothing", text="", images=[broken]), []),
            (1, b"key", a_value("alt", text="", images=[broken | {"alt": BAD}]), []),
        )
        nothing, alt = await harness.verdicts(2)
        assert len(await harness.dead_letters(2)) == 2
    assert (nothing["status"], nothing["outcome"], nothing["reason"]) == (
        "STATUS_UNDETERMINED",
        "OUTCOME_ALLOW",
        "IMAGE_UNSUPPORTED",
    )
    assert (nothing["origin"], nothing["decidingPolicy"], len(nothing["findings"])) == ("ORIGIN_NONE", "", 1)
    assert (alt["status"], alt["outcome"]) == ("STATUS_DEGRADED", "OUTCOME_REMOVE")


async def test_a_picture_on_which_the_model_fails_does_not_hide_the_text(
    harness: Harness, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Blind(Fake):
        def encode(self, content: Content, questions: Sequence[Question]) -> Any:
            if content.pictures:
                raise RuntimeError
            return super().encode(content, questions)

    monkeypatch.setattr(models, "load", lambda settings: Blind())
    async with running(harness):
        await harness.produce((1, b"key", a_value("blind", text=BAD, images=[PICTURE]), []))
        (verdict,) = await harness.verdicts(1)
        (letter,) = await harness.dead_letters(1)
    assert (verdict["status"], verdict["outcome"]) == ("STATUS_DEGRADED", "OUTCOME_REMOVE")
    assert dict(letter.headers)["dlq.error.code"] == b"MODEL_FAILED"
