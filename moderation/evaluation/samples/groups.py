"""Groups of equal content: what a sample is drawn from. Two posts of one group are one finding for who labels them."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Mapping

from moderation.types import Image, Post


def group_of(post: Post, files: Mapping[int, bytes]) -> str:
    """The group of a post: SHA-256, hex, over its folded texts and the digests of its pictures.

    The texts are that of the post and the alternative ones. The order of images does not count. files: those of its
    images that could be had, by their index; another image counts by its reference or as it was sent.
    """
    images = sorted(_image(image, files.get(index)) for index, image in enumerate(post.images))
    parts = [folded(post.text).encode("utf-8", "surrogatepass"), *images]
    whole = hashlib.sha256(b"moderation.group.1\0")
    for part in parts:
        whole.update(len(part).to_bytes(8, "big"))
        whole.update(part)
    return whole.hexdigest()


def folded(text: str) -> str:
    """NFKC, case folded, each run of blanks as one, none at the ends. Folding may leave NFKC, so it is done again."""
    normal = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(normal.split())


def _image(image: Image, file: bytes | None) -> bytes:
    """Of fixed length, then the alternative text."""
    if file is not None:
        kind, content = b"file", file
    elif image.data is not None:
        kind, content = b"data", image.data
    else:
        kind, content = b"link", (image.uri or "").encode("utf-8", "surrogatepass")
    return kind + hashlib.sha256(content).digest() + folded(image.alt).encode("utf-8", "surrogatepass")
