"""What tests build their inputs with: every field has a plausible value, and a test names the one it is about."""

from __future__ import annotations

from io import BytesIO
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp
from PIL import Image as pil

from moderation.policies import Policy
from moderation.types import (
    Finding,
    Image,
    ModelInfo,
    Origin,
    Outcome,
    Post,
    Score,
    Severity,
    Status,
    Thresholds,
    Verdict,
)
from moderation.v1.verdict_pb2 import Source as SourceMessage

# Of a Verdict message: each is Protobuf, and none is what a worker writes.
FOREIGN_FIELDS: list[dict[str, Any]] = [
    {"tenant": "t\0"},
    {"tenant": "x" * 129},
    {"deciding_policy": "p\0"},
    {"decided_at": Timestamp(seconds=1 << 62)},
    {"decided_at": Timestamp(seconds=-(1 << 62))},
    {"decided_at": Timestamp(nanos=-1)},
    {"source": SourceMessage(topic="posts", partition=-1)},
    {"source": SourceMessage(topic="posts", offset=-1)},
    {"source": SourceMessage(topic="posts", timestamp=Timestamp(seconds=1 << 62))},
]


def a_post(id: str = "post-1", text: str = "a quiet day at the lake", **fields: Any) -> Post:
    return Post(id=id, text=text, **fields)


def a_policy(id: str = "no-lakes", **fields: Any) -> Policy:
    defaults: dict[str, Any] = {
        "version": 1,
        "title": "Lakes",
        "question": "Does this post mention a lake?",
        "violates": [{"id": "L1", "text": "mentions a lake"}],
        "thresholds": {"review": 0.5, "remove": 0.9},
    }
    return Policy.model_validate({"id": id} | defaults | fields)


def a_verdict(post_id: str = "post-1", **fields: Any) -> Verdict:
    defaults: dict[str, Any] = {
        "tenant": "",
        "content_digest": "c" * 64,
        "policy_set_digest": "p" * 64,
        "model": ModelInfo("fake", "", "m" * 64),
        "outcome": Outcome.ALLOW,
        "status": Status.FINAL,
        "origin": Origin.MODEL,
        "deciding_policy": "",
        "severity": Severity.NONE,
        "findings": (),
        "decided_at_ms": 1_700_000_000_000,
    }
    return Verdict(post_id=post_id, **defaults | fields)


def a_finding(policy_id: str = "no-lakes", **fields: Any) -> Finding:
    defaults: dict[str, Any] = {
        "policy_version": 1,
        "outcome": Outcome.ALLOW,
        "severity": Severity.NONE,
        "thresholds": Thresholds(0.5, 0.9, 0.2),
        "score": Score(0.1, -2.2, 0.97),
        "windows": 1,
        "counts": True,
    }
    return Finding(policy_id=policy_id, **defaults | fields)


def mass_of(score: Score) -> float:
    """The mass of a local model's score, which always has one."""
    assert score.mass is not None
    return score.mass


def an_image(width: int = 64, height: int = 48, colour: Any = (200, 30, 30), mode: str = "RGB") -> pil.Image:
    return pil.new(mode, (width, height), colour)


def a_file(image: pil.Image | None = None, format: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    (image or an_image()).save(buffer, format, **options)
    return buffer.getvalue()


def inline(image: pil.Image | None = None, format: str = "PNG") -> Image:
    return Image(data=a_file(image, format))
