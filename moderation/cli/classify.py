"""`moderation classify`: judges one post in this process, without Kafka and without the API."""

from __future__ import annotations

import asyncio
import re
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moderation import settings
from moderation.cli.options import AsJson, Images, Text, check_content, out, read_file
from moderation.errors import ConfigError, PostError
from moderation.observability import logs
from moderation.settings import MediaSettings, Settings
from moderation.types import Post

if TYPE_CHECKING:
    from moderation.policies import PolicySet
    from moderation.v1.post_pb2 import Post as PostMessage
    from moderation.v1.verdict_pb2 import Verdict

STANDARD_INPUT = Path("-")
FORMAT = """a post looks like {"id": "42", "text": "hello", "images": [{"data": "<base64>"}], "language": "en"}"""


def classify(
    *,
    text: Text = "",
    image: Images = [],  # noqa: B006  typer copies it
    language: Annotated[str, typer.Option(help="language of the text (BCP 47), such as en or pt-BR")] = "",
    surface: Annotated[str, typer.Option(help="where the platform shows the post, such as comment or profile")] = "",
    tenant: Annotated[str, typer.Option(help="tenant whose post it is")] = "",
    post_file: Annotated[
        Path | None,
        typer.Option("--post", help="file with a whole post, in the JSON of the posts topic; - reads standard input"),
    ] = None,
    model_name: Annotated[
        str | None, typer.Option("--model", help="hub id, folder or demo; default MODERATION_MODEL")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--policies", help="folder of the policy set; default MODERATION_POLICIES")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Judge one post in this process, without Kafka: from options, or a whole post with --post."""
    from moderation.cli import render
    from moderation.policies import PolicySet
    from moderation.v1 import post_pb2

    loaded = settings.load()
    if model_name:
        loaded = loaded.model_copy(update={"model": loaded.model.model_copy(update={"name": model_name})})
    if post_file:
        if text or image or language or surface or tenant:
            raise ConfigError("--post gives the whole post: leave out --text, --image, --language, --surface, --tenant")
        post = post_of_file(post_file, loaded)
    else:
        check_content(text, image)
        images = [post_pb2.Image(data=read_file(path)) for path in image]
        message = post_pb2.Post(
            id=f"cli-{uuid.uuid4()}", text=text, images=images, tenant=tenant, language=language, surface=surface
        )
        post = post_of_options(message, loaded.media, image)
    logs.configure(loaded.log.model_copy(update={"level": "warning"}))
    logs.capture_prints(loaded.log)
    policy_set = PolicySet.load(folder or loaded.policies)
    try:
        verdict = asyncio.run(_classify(loaded, policy_set, post))
    except PostError as error:
        raise _refused(error, image) from None
    render.verdict(out, verdict, as_json=as_json, skipped=policy_set.skipped_for(post))


def post_of_options(message: PostMessage, limits: MediaSettings, images: Sequence[Path] = ()) -> Post:
    """The post, checked as one from the topic. `images`: the files of its images. Raises ConfigError."""
    from moderation import wire

    try:
        return wire.post(message, limits)
    except PostError as error:
        raise _refused(error, images) from None


def _refused(error: PostError, images: Sequence[Path]) -> ConfigError:
    """The refusal of a post. It names the file of an image where the post's own name of it is a place in a list."""
    text = str(error)
    if images:
        text = re.sub(r"images\[(\d+)\](\.data)?", lambda place: str(images[int(place[1])]), text)
    return ConfigError(f"the post is refused with {error.reason}: {text}")


def post_of_file(file: Path, loaded: Settings) -> Post:
    """The post in a file of JSON. Raises ConfigError with the place of the mistake where the parser reports one."""
    from moderation import wire

    largest = loaded.kafka.max_message_bytes
    source = "standard input" if file == STANDARD_INPUT else str(file)
    value = sys.stdin.buffer.read(largest + 1) if file == STANDARD_INPUT else read_file(file)
    if len(value) > largest:
        raise ConfigError(f"--post: {source} is larger than {largest} bytes (MODERATION_KAFKA__MAX_MESSAGE_BYTES)")
    if not value.strip():
        raise ConfigError(f"--post: {source} is empty; {FORMAT}")
    try:
        return wire.post_record(value, (), loaded.media)
    except PostError as error:
        problem = f"{error.reason}: {error if str(error).startswith('images[') else _mistake(value) or error}"
        raise ConfigError(f"--post: the post in {source} is refused with {problem}; {FORMAT}") from None


def _mistake(value: bytes) -> str:
    """What the JSON parser says of a post that it cannot read; "" if it can."""
    from google.protobuf import json_format

    from moderation.v1 import post_pb2

    try:
        json_format.Parse(value, post_pb2.Post())
    except (json_format.ParseError, ValueError, RecursionError) as error:
        return str(error).rstrip(".")
    return ""


async def _classify(loaded: Settings, policy_set: PolicySet, post: Post) -> Verdict:
    """The verdict. Raises PostError if this post cannot be judged."""
    from moderation import wire
    from moderation.inference import loading
    from moderation.media.reader import Media
    from moderation.moderator import Moderator

    model = loaded.model.model_copy(update={"outage_s": 1.0})  # a person waits
    async with await loading.load(loaded.model_copy(update={"model": model}), patient=False) as scorer:
        if scorer.info.caution:
            logs.say(f"{scorer.info.name}: {scorer.info.caution}")
        moderator = Moderator(policy_set, Media(loaded.media), scorer)
        return wire.verdict_message(await moderator.moderate(post))
