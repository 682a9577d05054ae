"""Pictures of a post for a page: decoded as those of any post are, and made small."""

from __future__ import annotations

import asyncio
import base64
from io import BytesIO
from typing import TYPE_CHECKING

from moderation.media.reader import Media
from moderation.types import Post

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

PICTURES = 4  # of a post
SIDE = 320  # pixels, at most


async def thumbnails(media: Media, post: Post) -> tuple[str, ...]:
    """The first pictures of a post as the model sees them, as data: URLs."""
    if not post.images:
        return ()
    async with media.opened(post) as read:
        return tuple([await asyncio.to_thread(_small, picture) for picture in read.content.pictures[:PICTURES]])


def _small(picture: Picture) -> str:
    small = picture.copy()
    small.thumbnail((SIDE, SIDE))
    file = BytesIO()
    small.save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(file.getvalue()).decode()}"
