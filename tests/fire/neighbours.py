"""Good posts, whose verdicts must be the same before, under and after the fire."""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from moderation.v1 import post_pb2
from tests.fire.posts import PROTOBUF, VIOLATES, Headers
from tests.support.builders import a_file, an_image

COUNT = 60  # that differ
FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
# What must not change of a verdict: all but its id, its time and its place.
KEPT = ("tenant", "contentDigest", "policySet", "outcome", "status", "decidingPolicy", "severity", "findings", "reason")


def neighbour(number: int, id: str, folder: Path) -> tuple[bytes, Headers]:
    """Value and headers of one of COUNT posts: texts, some with pictures inside or by reference, in both formats."""
    number %= COUNT
    draw = random.Random(number)
    text = f"a good post, number {number}, {VIOLATES if number % 4 == 0 else 'about a lake'}"
    images: list[dict[str, Any]] = []
    for place in range(number % 3):
        image = an_image(draw.randint(20, 300), draw.randint(20, 300), (number * 4, place * 90, draw.randrange(256)))
        file = a_file(image, FORMATS[(number + place) % 4])
        if number % 5 == 0:
            path = folder / f"{number}-{place}"
            if not path.exists():
                path.write_bytes(file)
            images.append({"uri": path.as_uri()})
        else:
            images.append({"data": base64.b64encode(file).decode(), "alt": f"picture {place}"})
    if number % 2:
        message = post_pb2.Post(id=id, text=text, tenant="good")
        for part in images:
            decoded = {"data": base64.b64decode(part["data"])} if "data" in part else {}
            message.images.add(**part | decoded)
        return message.SerializeToString(), PROTOBUF
    return json.dumps({"id": id, "text": text, "images": images, "tenant": "good"}).encode(), []


def kept(verdict: Mapping[str, Any]) -> dict[str, Any]:
    """What must not change of a verdict, of its JSON."""
    return {name: verdict.get(name) for name in (*KEPT, "problems", "origin")}
