"""Posts and their verdicts, through the API: `moderation submit`, `get`, `list` and `watch`."""

from __future__ import annotations

import asyncio
import base64
import difflib
import sys
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from moderation import settings
from moderation.cli.options import (
    Address,
    AsJson,
    Images,
    Language,
    Surface,
    Tenant,
    Text,
    check_content,
    err,
    note_language,
    out,
    read_file,
    read_picture,
)
from moderation.errors import ConfigError

if TYPE_CHECKING:
    from moderation.client import Client

PAGE = 1_000  # the most that a page holds

Outcomes = Annotated[
    list[str],
    typer.Option("--outcome", help="only verdicts with this outcome: allow, review or remove; may be repeated"),
]
Policies = Annotated[
    list[str], typer.Option("--policy", help="only verdicts that this policy decided; may be repeated")
]


def submit(
    *,
    text: Text = "",
    image: Images = [],  # noqa: B006  typer copies it
    language: Language = "",
    surface: Surface = "",
    tenant: Tenant = "",
    id: Annotated[str | None, typer.Option("--id", help="the post's id; default: a new one")] = None,
    address: Address = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="seconds to wait for the verdict")] = 30.0,
    as_json: AsJson = False,
) -> None:
    """Send a post to the posts topic through the API, and wait for its verdict. Exits with 1 if there is none yet."""
    from moderation.cli import render
    from moderation.client import CallError
    from moderation.v1 import post_pb2
    from moderation.v1.moderation_service_pb2 import LOOKUP_STATE_FOUND

    check_content(text, image)
    if id == "":
        raise ConfigError("--id is empty: give the post's id, or leave the option out for a new one")
    images = [post_pb2.Image(data=read_picture(path)) for path in image]
    post = post_pb2.Post(
        id=f"cli-{uuid.uuid4()}" if id is None else id,
        text=text,
        images=images,
        tenant=tenant,
        language=language,
        surface=surface,
    )
    note_language(language)

    async def call() -> bool:
        async with connected(address) as client:
            try:
                result = await client.moderate(post, timeout=timeout)
            except CallError as error:
                if error.code.name != "DEADLINE_EXCEEDED":
                    raise
                text = f"{error}; the post {post.id} may have been accepted: look it up with `moderation get {post.id}`"
                raise CallError(text, error.code, error.reason, error.retry_s) from None
        render.lookup(out, post.id, result, as_json=as_json)
        return result.state == LOOKUP_STATE_FOUND

    sys.exit(0 if asyncio.run(call()) else 1)


def get(
    post_ids: Annotated[list[str], typer.Argument(help="ids of posts")],
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Look up verdicts by post id. Exits with 1 if one of them has no verdict. With --json: one object a line."""
    from moderation.cli import render
    from moderation.v1.moderation_service_pb2 import LOOKUP_STATE_FOUND

    async def call() -> bool:
        async with connected(address) as client:
            results = await client.get_many(post_ids)
        for result in results:
            render.lookup(out, result.post_id, result, as_json=as_json)
        return all(result.state == LOOKUP_STATE_FOUND for result in results)

    sys.exit(0 if asyncio.run(call()) else 1)


def latest(
    outcome: Outcomes = [],  # noqa: B006  typer copies it
    policy: Policies = [],  # noqa: B006
    limit: Annotated[int, typer.Option(min=1, help="how many verdicts")] = 20,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Print the latest verdicts that the API holds, latest decision first. With --json: one verdict a line."""
    from moderation.cli import render

    outcomes = _outcomes(outcome)

    async def call() -> int:
        printed = 0
        async with connected(address) as client:
            unknown = await _unknown(client, policy)
            async for verdict in client.list(outcomes=outcomes, policy_ids=policy, page_size=min(limit, PAGE)):
                render.line(out, verdict, when=True, as_json=as_json)
                printed += 1
                if printed == limit:
                    break
        if unknown:
            err.print(f"{unknown}. Verdicts of earlier policies are listed", highlight=False, markup=False)
        return printed

    if not asyncio.run(call()):
        err.print("no verdicts", highlight=False, markup=False)


def watch(
    outcome: Outcomes = [],  # noqa: B006  typer copies it
    policy: Policies = [],  # noqa: B006
    after: Annotated[
        str | None, typer.Option(help="continue after this consistencyToken, which --json prints; default: from now")
    ] = None,
    address: Address = None,
    as_json: AsJson = False,
) -> None:
    """Print verdicts and erasures as they arrive, until Ctrl-C. With --json: one message a line."""
    from moderation.cli import render

    try:
        token = base64.b64decode(after or "", validate=True)
    except ValueError:
        token = b""
    if after is not None and not token:
        raise ConfigError("--after is not a consistency token: take the consistencyToken that --json prints")
    outcomes = _outcomes(outcome)

    async def follow() -> None:
        async with connected(address) as client:
            if unknown := await _unknown(client, policy):
                raise ConfigError(unknown)
            async for message in client.watch(outcomes=outcomes, policy_ids=policy, after=token):
                render.changes(out, message, as_json=as_json)

    with suppress(KeyboardInterrupt):
        asyncio.run(follow())


def _outcomes(names: list[str]) -> list[Any]:
    """The outcomes of these names. Raises ConfigError."""
    from moderation.v1.verdict_pb2 import Outcome

    known = {name.removeprefix("OUTCOME_").lower(): value for name, value in Outcome.items() if value}
    if unknown := [name for name in names if name.lower() not in known]:
        raise ConfigError(f"--outcome must be allow, review or remove, not {', '.join(map(repr, unknown))}")
    return [known[name.lower()] for name in names]


async def _unknown(client: Client, policies: list[str]) -> str:
    """Which of these policies the API does not have, in words. Says on standard error where the API does not tell."""
    from moderation.client import CallError

    if not policies:
        return ""
    try:
        known = [policy.id for policy in (await client.policies()).policies]
    except CallError as error:
        if error.reason not in ("NO_POLICIES", "MISSING_SCOPE"):
            raise
        why = "it has no policy folder" if error.reason == "NO_POLICIES" else "the token lacks the scope policies:read"
        err.print(f"--policy is not checked, because the API lists no policies: {why}", highlight=False, markup=False)
        return ""
    unknown = [policy for policy in policies if policy not in known]
    if not unknown:
        return ""
    close = [match for name in unknown for match in difflib.get_close_matches(name, known, n=1)]
    hint = f"did you mean {', '.join(close)}?" if close else f"it has {', '.join(known)}"
    return f"--policy: the API has no policy {', '.join(map(repr, unknown))}; {hint}"


def _token(file: Path) -> str:
    """The bearer token in a file. Raises ConfigError."""
    token = read_file(file).strip()
    if not token or not token.isascii() or any(byte <= 0x20 for byte in token):
        raise ConfigError(f"{file}: no bearer token: it must be one word of ASCII")
    return token.decode()


@asynccontextmanager
async def connected(address: str | None) -> AsyncIterator[Client]:
    """The client that the settings describe. Raises ConfigError, and CallError with a hint if no API is there."""
    from moderation.client import CallError, Client

    loaded = settings.load()
    access, file = loaded.client, loaded.client.token_file
    certificate = (access.certificate, access.key) if access.certificate and access.key else None
    bearer = (lambda: _token(file)) if file else None
    where = address or loaded.api.listen
    async with Client(where, tenant=access.tenant, token=bearer, ca=access.ca, certificate=certificate) as client:
        try:
            yield client
        except CallError as error:
            if error.code.name != "UNAVAILABLE" or error.reason:  # an API that refuses a call gives a reason
                raise
            hint = "is an API running there? --api HOST:PORT names another"
            raise CallError(f"{error}; {hint}", error.code, error.reason, error.retry_s) from None
