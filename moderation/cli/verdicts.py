"""Posts and their verdicts, through the API: `moderation submit`, `get` and `watch`."""

from __future__ import annotations

import asyncio
import base64
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moderation import settings
from moderation.cli.options import Address, AsJson, Images, Text, check_content, out, read_file
from moderation.errors import ConfigError

if TYPE_CHECKING:
    from moderation.client import Client


def submit(
    text: Text = "",
    image: Images = [],  # noqa: B006  typer copies it
    id: Annotated[str | None, typer.Option("--id", help="the post's id; default: a new one")] = None,
    address: Address = None,
    timeout: Annotated[float, typer.Option(help="seconds to wait for the verdict")] = 30.0,
    as_json: AsJson = False,
) -> None:
    """Send a post to the posts topic through the API, and wait for its verdict."""
    from moderation.cli import render
    from moderation.v1 import post_pb2

    check_content(text, image)
    if id == "":
        raise ConfigError("--id is empty: give the post's id, or leave the option out for a new one")
    images = [post_pb2.Image(data=read_file(path)) for path in image]
    post = post_pb2.Post(id=f"cli-{uuid.uuid4()}" if id is None else id, text=text, images=images)

    async def call() -> None:
        async with _client(address) as client:
            render.lookup(out, post.id, await client.moderate(post, timeout=timeout), as_json=as_json)

    asyncio.run(call())


def get(
    post_ids: Annotated[list[str], typer.Argument(help="ids of posts")],
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Look up verdicts by post id. Exits with 1 if one of them has no verdict. With --json: one object a line."""
    from moderation.cli import render
    from moderation.v1.moderation_service_pb2 import LOOKUP_STATE_FOUND

    async def call() -> bool:
        async with _client(address) as client:
            results = await client.get_many(post_ids)
        for result in results:
            render.lookup(out, result.post_id, result, as_json=as_json)
        return all(result.state == LOOKUP_STATE_FOUND for result in results)

    sys.exit(0 if asyncio.run(call()) else 1)


def watch(
    outcome: Annotated[
        list[str], typer.Option(help="only verdicts with this outcome: allow, review or remove; may be repeated")
    ] = [],  # noqa: B006  typer copies it
    policy: Annotated[list[str], typer.Option(help="only verdicts that this policy decided; may be repeated")] = [],  # noqa: B006
    after: Annotated[
        str | None, typer.Option(help="continue after this consistencyToken, which --json prints; default: from now")
    ] = None,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Print verdicts and erasures as they arrive, until Ctrl-C. With --json: one message a line."""
    from moderation.cli import render
    from moderation.v1.verdict_pb2 import Outcome

    try:
        token = base64.b64decode(after or "", validate=True)
    except ValueError:
        token = b""
    if after is not None and not token:
        raise ConfigError("--after is not a consistency token: take the consistencyToken that --json prints")
    if unknown := [name for name in outcome if f"OUTCOME_{name.upper()}" not in Outcome.keys()]:  # noqa: SIM118
        raise ConfigError(f"--outcome must be allow, review or remove, not {', '.join(unknown)}")
    outcomes: list[Any] = [Outcome.Value(f"OUTCOME_{name.upper()}") for name in outcome]

    async def follow() -> None:
        async with _client(address) as client:
            async for message in client.watch(outcomes=outcomes, policy_ids=policy, after=token):
                render.changes(out, message, as_json=as_json)

    with suppress(KeyboardInterrupt):
        asyncio.run(follow())


@asynccontextmanager
async def _client(address: str | None) -> AsyncIterator[Client]:
    """The client that the settings describe. Raises ConfigError, and CallError with a hint if no API is there."""
    from moderation.client import CallError, Client

    loaded = settings.load()
    access, file = loaded.client, loaded.client.token_file
    certificate = (access.certificate, access.key) if access.certificate and access.key else None
    bearer = (lambda: read_file(file).decode().strip()) if file else None
    where = address or loaded.api.listen
    async with Client(where, tenant=access.tenant, token=bearer, ca=access.ca, certificate=certificate) as client:
        try:
            yield client
        except CallError as error:
            if error.code.name != "UNAVAILABLE" or error.reason:  # an API that refuses a call gives a reason
                raise
            hint = "is an API running there? --api HOST:PORT names another"
            raise CallError(f"{error}; {hint}", error.code, error.reason, error.retry_s) from None
