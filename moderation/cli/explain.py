"""`moderation explain`: what is wrong with a record, without its content."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from moderation import settings
from moderation.cli.classify import mistake
from moderation.cli.options import AsJson, note_language, out, read_input
from moderation.errors import ConfigError, without_extra
from moderation.observability import logs
from moderation.settings import Settings
from moderation.types import Detail, Post, Problem

if TYPE_CHECKING:
    from moderation.kafka.records import Record
    from moderation.wire.explanations import Explanation

TEXT_RULE = "deploy/README.md#how-long-a-text-may-be"


@dataclass(frozen=True, slots=True)
class _Found:
    """What is wrong with a record, as far as it can be found without a model."""

    problems: list[Problem]
    unread: str = ""  # why its pictures were not looked into; empty: they were, or there are none
    long: bool = False  # whether the text may take more windows than the model reads
    mistake: str = ""  # with the name of an unknown field, which the author of a file may see

    @property
    def dead_letter(self) -> bool:
        return any(problem.refused for problem in self.problems)


def explain(
    file: Annotated[Path | None, typer.Argument(help="file with the value of a record; - reads standard input")] = None,
    *,
    content_type: Annotated[
        str | None, typer.Option(help="the record's header, such as application/x-protobuf; default: none, so JSON")
    ] = None,
    topic: Annotated[
        str | None, typer.Option(help="of posts or of dead letters; default MODERATION_KAFKA__POSTS_TOPIC")
    ] = None,
    partition: Annotated[int | None, typer.Option(min=0, help="partition of the record")] = None,
    offset: Annotated[int | None, typer.Option(min=0, help="offset of the record")] = None,
    as_json: AsJson = False,
) -> None:
    """Say what is wrong with a record, and what to do; never its content. Exits with 1 if it is a dead letter."""
    loaded = settings.load()
    logs.configure(loaded.log.model_copy(update={"level": "error"}))
    of_topic = [option is not None for option in (topic, partition, offset)]
    if file is not None and any(of_topic):
        raise ConfigError("give a file, or --topic, --partition and --offset of a record, and not both")
    if file is None and (partition is None or offset is None):
        raise ConfigError("give a file, or --partition and --offset of a record; --topic names another topic")
    if content_type is not None and file is None:
        raise ConfigError("--content-type goes with a file: a record of a topic has its own headers")
    refused = asyncio.run(_explain(loaded, file, content_type, (topic, partition or 0, offset or 0), as_json))
    sys.exit(1 if refused else 0)


async def _explain(
    loaded: Settings, file: Path | None, content_type: str | None, place: tuple[str | None, int, int], as_json: bool
) -> bool:
    """Prints what there is to say. Returns whether the record becomes a dead letter."""
    from moderation.wire.explanations import explain as explanation_of

    if file is not None:
        name, value = read_input(file)
        headers = [] if content_type is None else [("content-type", content_type.encode())]
        return await _print(name, explanation_of(None, value, headers, loaded), loaded, as_json, shown=value)
    from moderation.kafka.lookup import record_at

    topic, partition, offset = place
    record = await record_at(loaded.kafka, topic or loaded.kafka.posts_topic, partition, offset)
    return await of_record(record, loaded, as_json)


async def of_record(record: Record, loaded: Settings, as_json: bool, more: Mapping[str, object] | None = None) -> bool:
    """Prints what is wrong with a record. more: members of its JSON. Returns whether it becomes a dead letter."""
    from moderation.wire.explanations import explain as explanation_of

    explanation = explanation_of(record.key, record.value, record.headers, loaded, record.problem)
    if record.omitted:
        explanation = replace(explanation, bytes=record.omitted.size)
    name = f"{record.topic}/{record.partition}/{record.offset}"
    return await _print(name, explanation, loaded, as_json, more=more)


async def _print(
    name: str,
    explanation: Explanation,
    loaded: Settings,
    as_json: bool,
    *,
    shown: bytes = b"",
    more: Mapping[str, object] | None = None,
) -> bool:
    """shown: the value, where its author asks and may see the name of an unknown field."""
    found = await _found(explanation, loaded)
    if shown and any(problem.detail is Detail.UNKNOWN_FIELD for problem in found.problems):
        found = replace(found, mistake=mistake(shown))
    members = _members(name, explanation, found) | dict(more or {})
    for line in [json.dumps(members)] if as_json else _lines(name, explanation, found):
        out.print(line, highlight=False, markup=False)
    note_language(explanation.known.language)
    return found.dead_letter


async def _found(explanation: Explanation, loaded: Settings) -> _Found:
    """All problems of a record."""
    if explanation.refused:
        return _Found([explanation.refused])
    if explanation.post is None:
        return _Found([])
    from moderation.media.text import text_of

    post = explanation.post
    text, cut = text_of(post, loaded.media)
    # A token is a byte or more. In a short context, or beside pictures, windows may have half of their tokens.
    long = len(text.encode("utf-8", "replace")) * 2 > loaded.model.max_windows * loaded.model.window_tokens
    if not post.images:
        return _Found(list(cut), long=long)
    try:
        from moderation.media.reader import Media
    except ModuleNotFoundError as error:
        missing = without_extra(error)
        if missing is None:
            raise
        of_images = dict.fromkeys(image.problem for image in post.images if image.problem)
        return _Found([*cut, *of_images], missing.message, long)
    async with Media(loaded.media) as media, media.opened(post) as read:
        return _Found(list(read.problems), long=long)


def _lines(name: str, explanation: Explanation, found: _Found) -> Iterator[str]:
    yield f"{name}: {explanation.format}, {explanation.bytes:,} bytes"
    if said := explanation.letter:
        where = "/".join(said.get(f"original.{part}", "?") for part in ("topic", "partition", "offset"))
        detail = f" ({said['error.detail']})" if "error.detail" in said else ""
        yield f"dead letter of {where}, refused with {said.get('error.code', 'an unknown reason')}{detail}"
    if known := _known(explanation.known):
        yield "of the post: " + ", ".join(f"{label} {value}" for label, value in known.items())
    if explanation.erases:
        yield f"an erasure: workers erase the verdict of {explanation.erases}"
    elif not explanation.whole:
        yield "the dead letter does not hold the whole value: explain the original record, as long as it is there"
    if post := explanation.post:
        yield f"text: {_count(len(post.text), 'character')}; {_count(len(post.images), 'image')}"
    yield from _problem_lines(explanation, found)
    if found.unread:
        yield f"the pictures were not looked into: {found.unread}"
    elif post and not found.problems:
        yield (
            "sound: workers with these settings read all of it" if not found.long else "sound, as far as it is checked"
        )
    if found.long:
        yield f"whether the model reads all of a long text is not checked here: {TEXT_RULE}"
    if explanation.whole:
        yield f"dead letter: {'yes' if found.dead_letter else 'no'}"


def _problem_lines(explanation: Explanation, found: _Found) -> Iterator[str]:
    """The problems that have the same advice, then the advice."""
    from moderation.wire.advice import advice, effect, place

    by_advice: dict[tuple[str, str], list[Problem]] = {}
    for problem in found.problems:
        by_advice.setdefault(advice(problem), []).append(problem)
    for said, problems in by_advice.items():
        for problem in problems:
            judged = effect(problem.reason, problem.path, problem.detail or "")
            where = ": ".join(part for part in (place(problem.reason, problem.path), problem.detail) if part)
            how = "refused" if problem == explanation.refused else judged
            yield f"{how}: {problem.reason}" + (f", {where}" if where else "")
        yield "  {} {}".format(*said)
    if found.mistake:
        yield f"  {found.mistake}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _members(name: str, explanation: Explanation, found: _Found) -> dict[str, object]:
    from moderation.wire.advice import advice

    described = [
        {"reason": problem.reason, "path": problem.path, "detail": problem.detail or ""}
        | dict(zip(("meaning", "whatToDo"), advice(problem), strict=True))
        for problem in found.problems
    ]
    return {
        "record": name,
        "format": explanation.format,
        "bytes": explanation.bytes,
        "post": _known(explanation.known),
        "erases": explanation.erases,
        "whole": explanation.whole,
        "refused": explanation.refused is not None,
        "deadLetter": found.dead_letter,
        "problems": described,
        "picturesUnread": found.unread,
        "windowsUncounted": found.long,
        "headers": explanation.letter,
    }


def _known(post: Post) -> dict[str, str]:
    fields = {"id": post.id, "tenant": post.tenant, "language": post.language, "surface": post.surface}
    return {name: value for name, value in fields.items() if value}
