"""From one decoded frame to the pictures that are judged: what viewers show of it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from PIL import Image as pil

if TYPE_CHECKING:
    from moderation.settings import MediaSettings


def views_of(
    levels: pil.Image,
    others: Iterable[pil.Image],
    turns: Sequence[pil.Transpose | None],
    settings: MediaSettings,
) -> Iterator[pil.Image]:
    """Yields the pictures that users see of one frame: RGB, with a margin where it is thin.

    The first is what a browser shows on a white page. Others follow where viewers visibly differ: on black where it is
    transparent, turned another way, or read otherwise. `levels`: the frame in mode L, RGB, CMYK or RGBA. `others`: the
    same, where its samples are read in another way. `turns`: the browser's, then others.
    """
    upright = _turned(levels, turns[0])
    yield from _on_grounds(upright, settings)
    for turn in turns[1:]:
        yield next(_on_grounds(_turned(levels, turn), settings))
    for other in others:
        yield next(_on_grounds(_turned(other, turns[0]), settings))


def _turned(picture: pil.Image, turn: pil.Transpose | None) -> pil.Image:
    return picture if turn is None else picture.transpose(turn)


def _on_grounds(picture: pil.Image, settings: MediaSettings) -> Iterator[pil.Image]:
    if picture.mode != "RGBA":
        kept = picture.mode == "RGB" and not getattr(picture, "is_animated", False)  # by the next frame of its file
        yield _with_margin(picture if kept else picture.convert("RGB"), "white", settings)
        return
    opaque = picture.getchannel("A").getextrema() == (255, 255)
    for ground in ("white",) if opaque else ("white", "black"):  # users have light screens and dark ones
        laid = pil.alpha_composite(pil.new("RGBA", picture.size, ground), picture).convert("RGB")
        yield _with_margin(laid, ground, settings)


def _with_margin(picture: pil.Image, ground: str, settings: MediaSettings) -> pil.Image:
    """A picture within max_aspect: a thinner one lies in the middle of its ground, unscaled."""
    size = padded_size(picture.size, settings)
    if size == picture.size:
        return picture
    padded = pil.new("RGB", size, ground)
    padded.paste(picture, ((size[0] - picture.width) // 2, (size[1] - picture.height) // 2))
    return padded


def padded_size(size: tuple[int, int], settings: MediaSettings) -> tuple[int, int]:
    """The size with its margin, in pixels: none within max_aspect."""
    shortest = math.ceil(max(size) / settings.max_aspect)
    return max(size[0], shortest), max(size[1], shortest)
