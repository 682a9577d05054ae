"""The text of a post as the model reads it: the post's own, then the alternative texts of its images."""

from __future__ import annotations

from collections.abc import Iterator

from moderation.settings import MediaSettings
from moderation.types import Post, Problem, Reason

GAP = "\n[...]\n"  # in place of what is left out


def text_of(post: Post, settings: MediaSettings) -> tuple[str, tuple[Problem, ...]]:
    """Returns the text and what was left out of it.

    Of a text longer than max_text_chars the beginning and the end are kept. All alternative texts together have as much
    room again, in equal shares.
    """
    problems: list[Problem] = []

    def kept(text: str, limit: int, path: str) -> str:
        if len(text) <= limit:
            return text
        problems.append(Problem(Reason.TEXT_TOO_LONG, path))
        return text[: limit - limit // 2] + GAP + text[len(text) - limit // 2 :]

    text = kept(post.text, settings.max_text_chars, "text")
    share = max(1, settings.max_text_chars // max(1, len(post.images)))

    def parts() -> Iterator[str]:
        if text:
            yield text
        for index, image in enumerate(post.images):
            if image.alt.strip():
                yield f"Alternative text of image {index + 1}: {kept(image.alt, share, f'images[{index}].alt')}"

    return "\n\n".join(parts()), tuple(problems)
