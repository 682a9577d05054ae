"""What commands that judge many posts need: the settings for a person at a desk, pictures and a model."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from moderation import settings
from moderation.cli import progress
from moderation.observability import logs
from moderation.settings import Settings

if TYPE_CHECKING:
    from moderation.inference.scoring import Scorer
    from moderation.media.reader import Media
    from moderation.types import ModelInfo


def prepared(model: str | None) -> tuple[Settings, Console | None]:
    """The settings with this model (None: as set), and the terminal for a progress bar. Logs warnings alone from here.

    Raises ConfigError.
    """
    loaded = settings.load()
    if model:
        loaded = loaded.model_copy(update={"model": loaded.model.model_copy(update={"name": model})})
    logs.configure(loaded.log.model_copy(update={"level": "warning"}))
    terminal = progress.terminal()
    logs.capture_prints(loaded.log)
    return loaded, terminal


@asynccontextmanager
async def opened(loaded: Settings, folders: Iterable[Path] = ()) -> AsyncIterator[tuple[Media, Scorer]]:
    """Yields what reads pictures, also from these folders, and what scores. Raises ConfigError and DeviceError."""
    from moderation.inference import loading
    from moderation.media.reader import Media

    roots = tuple(sorted({*loaded.media.roots, *folders}))
    model = loaded.model.model_copy(update={"outage_s": 1.0})  # a person waits
    async with (
        Media(loaded.media.model_copy(update={"roots": roots})) as media,
        await loading.load(loaded.model_copy(update={"model": model}), patient=False) as scorer,
    ):
        yield media, scorer


def model_members(info: ModelInfo) -> dict[str, str]:
    """The model as JSON."""
    return {"name": info.name, "revision": info.revision, "digest": info.digest, "caution": info.caution}
