"""`moderation classify`: judges posts in this process, without Kafka and without the API. many.py judges many."""

from __future__ import annotations

import asyncio
import sys
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moderation import settings
from moderation.cli import many
from moderation.cli.options import (
    AsJson,
    Images,
    Language,
    Surface,
    Tenant,
    Text,
    check_content,
    note_language,
    out,
    read_input,
    read_picture,
)
from moderation.errors import ConfigError, PostError
from moderation.observability import logs
from moderation.settings import MediaSettings, Settings
from moderation.types import Detail, Post, Reason

if TYPE_CHECKING:
    from moderation.policies import PolicySet
    from moderation.v1.post_pb2 import Post as PostMessage
    from moderation.v1.verdict_pb2 import Verdict


def classify(
    *,
    text: Text = "",
    image: Images = [],  # noqa: B006  typer copies it
    language: Language = "",
    surface: Surface = "",
    tenant: Tenant = "",
    post_file: Annotated[
        Path | None,
        typer.Option("--post", help="file with a whole post, in the JSON of the posts topic; - reads standard input"),
    ] = None,
    posts: Annotated[
        Path | None,
        typer.Option(help="file with many posts: CSV with columns text, image, language, label; or JSON lines"),
    ] = None,
    pictures: Annotated[Path | None, typer.Option(help="folder of pictures; each is a post")] = None,
    file: Annotated[
        Path | None,
        typer.Option(
            "--out",
            help="of many posts: write FILE.csv, FILE.json or FILE.html; if interrupted, the same command goes on",
        ),
    ] = None,
    policy: Annotated[
        str | None, typer.Option(help="of many posts: judge by this policy alone, as if it were live")
    ] = None,
    model_name: Annotated[
        str | None, typer.Option("--model", help="hub id, folder or demo; default MODERATION_MODEL")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--policies", help="folder of the policy set; default MODERATION_POLICIES")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Judge one post or many in this process, without Kafka, as a worker would. Exits with 1 if one was not judged."""
    from moderation.cli import render
    from moderation.policies import PolicySet
    from moderation.v1 import post_pb2
    from moderation.v1.verdict_pb2 import STATUS_UNDETERMINED

    alone = text or image or language or surface or tenant
    if source := posts or pictures:
        if (posts and pictures) or post_file or alone:
            raise ConfigError("give one of --posts, --pictures, --post, or the options of one post")
        many.many(many.Wanted(source, posts is None, file, policy, as_json), folder, model_name)
        return
    if file or policy:
        raise ConfigError("--out and --policy are for many posts: give --posts FILE or --pictures FOLDER, too")
    loaded = settings.load()
    if model_name:
        loaded = loaded.model_copy(update={"model": loaded.model.model_copy(update={"name": model_name})})
    post: Post | PostError
    if post_file:
        if alone:
            raise ConfigError("--post gives the whole post: leave out --text, --image, --language, --surface, --tenant")
        post = post_of_file(post_file, loaded)
    else:
        check_content(text, image)
        images = [post_pb2.Image(data=read_picture(path)) for path in image]
        message = post_pb2.Post(
            id=f"cli-{uuid.uuid4()}", text=text, images=images, tenant=tenant, language=language, surface=surface
        )
        post = post_of_options(message, loaded.media)
    logs.configure(loaded.log.model_copy(update={"level": "warning"}))
    logs.capture_prints(loaded.log)
    policy_set = PolicySet.load(folder or loaded.policies)
    if isinstance(post, PostError):
        logs.say(f"the post is refused with {post.reason}: {post}")
    note_language("" if isinstance(post, PostError) else post.language)
    verdict = asyncio.run(_classify(loaded, policy_set, post))
    skipped = {} if isinstance(post, PostError) else policy_set.skipped_for(post)
    render.verdict(out, verdict, as_json=as_json, skipped=skipped, files=[str(path) for path in image])
    if verdict.status == STATUS_UNDETERMINED:
        sys.exit(1)


def post_of_options(message: PostMessage, limits: MediaSettings) -> Post | PostError:
    """The post, read as one from the topic; or why it is refused."""
    from moderation import wire

    try:
        return wire.post(message, limits)
    except PostError as error:
        return error


def post_of_file(file: Path, loaded: Settings) -> Post | PostError:
    """The post in a file, read as a record of the topic; or why it is refused, with the place if the parser says it.

    Raises ConfigError if the file cannot be read.
    """
    from moderation import wire
    from moderation.wire.advice import advice

    largest = loaded.kafka.max_message_bytes
    source, value = read_input(file, largest + 1)
    if len(value) > largest:
        problem = f"{source} is larger than {largest} bytes (MODERATION_KAFKA__MAX_MESSAGE_BYTES)"
        return PostError(Reason.RECORD_TOO_LARGE, problem)
    try:
        return wire.post_record(value, (), loaded.media, schema_registry=loaded.kafka.schema_registry)
    except PostError as error:
        placed = mistake(value) if error.problem.detail in (Detail.NOT_JSON, Detail.UNKNOWN_FIELD) else ""
        _, remedy = advice(error.problem)
        text = f"{placed or error}, in {source}. {remedy}"
        return PostError(error.reason, text, path=error.problem.path, detail=error.problem.detail, known=error.known)


def mistake(value: bytes) -> str:
    """Line and column of what is not JSON, or the name of an unknown field, as the parser says it; "" if neither."""
    from google.protobuf import json_format

    from moderation.v1 import post_pb2

    try:
        json_format.Parse(value, post_pb2.Post())
    except (json_format.ParseError, ValueError, RecursionError) as error:
        text = str(error).rstrip(".")
        return text if "no field named" in text or "line" in text else ""
    return ""


async def _classify(loaded: Settings, policy_set: PolicySet, post: Post | PostError) -> Verdict:
    """The verdict that a worker would publish, also of a post that is refused."""
    from moderation import wire
    from moderation.inference import loading
    from moderation.media.reader import Media
    from moderation.moderator import Moderator

    model = loaded.model.model_copy(update={"outage_s": 1.0})  # a person waits
    async with (
        Media(loaded.media) as media,
        await loading.load(loaded.model_copy(update={"model": model}), patient=False) as scorer,
    ):
        if scorer.info.caution:
            logs.say(f"{scorer.info.name}: {scorer.info.caution}")
        moderator = Moderator(policy_set, media, scorer)
        if isinstance(post, PostError):
            return wire.verdict_message(moderator.undetermined(post.known or Post(""), post.problem, None))
        return wire.verdict_message(await moderator.moderate(post))
