"""Posts for the real commands, and the verdicts that lookups return."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

from moderation.client import Client
from moderation.v1 import moderation_service_pb2 as lookup
from moderation.v1 import post_pb2
from moderation.v1.verdict_pb2 import Verdict
from tests.support.builders import a_file, an_image
from tests.support.commands import Headers

MARK = "zebra-crossing-at-dawn"  # in every post; in no log, header or verdict
Record = tuple[bytes, bytes | None, Headers]


def a_record(number: int, folder: Path) -> Record:
    """A post with a text; every third with a picture inside, every seventh with one by reference; some as Protobuf."""
    post: dict[str, Any] = {"id": f"post-{number}", "text": f"{MARK} number {number}", "images": []}
    shade = (number, 255 - number, 90)
    if number % 3 == 0:
        file = a_file(an_image(80 + number, 120, shade), "JPEG")
        post["images"].append({"data": base64.b64encode(file).decode()})
    if number % 7 == 0:
        (folder / f"{number}.png").write_bytes(a_file(an_image(90, 60 + number, shade)))
        post["images"].append({"uri": f"file://{folder}/{number}.png"})
    key = f"author-{number % 17}".encode()
    if number % 5:
        return key, json.dumps(post).encode(), ()
    message = post_pb2.Post(id=post["id"], text=post["text"])
    for image in post["images"]:
        message.images.add(data=base64.b64decode(image["data"])) if "data" in image else message.images.add(**image)
    return key, message.SerializeToString(), [("content-type", b"application/x-protobuf")]


async def look_up(port: int, ids: list[str]) -> dict[str, Verdict]:
    """Every verdict over gRPC, once the view has all of them."""
    async with Client(f"127.0.0.1:{port}") as client, asyncio.timeout(60):
        while True:
            results = await client.get_many(ids)
            if all(result.state == lookup.LOOKUP_STATE_FOUND for result in results):
                return {result.post_id: result.verdict for result in results}
            await asyncio.sleep(0.05)  # the view follows the topic
