"""Refusals of posts: what is wrong where, and what is known of the post all the same.

Only what is no post is refused as a whole. What is readable and valid of it goes with the refusal, above all its
tenant: without it, the tenant could not find the verdict.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from moderation.errors import PostError
from moderation.types import MAX_LABEL_BYTES, Detail, Post, Problem, Reason
from moderation.wire.ids import MAX_ID_BYTES, fault_in_words, id_fault, label_fault

RULES: Mapping[str, tuple[Callable[[str], Detail | None], int]] = {
    "id": (id_fault, MAX_ID_BYTES),
    "tenant": (label_fault, MAX_LABEL_BYTES),
    "language": (label_fault, MAX_LABEL_BYTES),
    "surface": (label_fault, MAX_LABEL_BYTES),
}


def known_of(fields: Mapping[str, object]) -> Post:
    """The id and the labels that are strings and valid, as a post without content. Its id may be empty."""
    valid = {
        name: value
        for name, (fault, _) in RULES.items()
        if isinstance(value := fields.get(name), str) and not fault(value)
    }
    return replace(Post(""), **valid)  # type: ignore[arg-type]  # strings, by their names


def refusal(reason: Reason, known: Post | None, detail: Detail, path: str = "", text: str = "") -> PostError:
    """`text`: for a developer at a terminal, in place of path and detail."""
    return PostError(reason, text or str(Problem(reason, path, detail)), path=path, detail=detail, known=known)


def checked(post: Post) -> Post:
    """The post, once its id and labels are checked. Raises PostError if one breaks its rule."""
    for name, (fault, max_bytes) in RULES.items():
        if detail := fault(getattr(post, name)):
            known = known_of({label: getattr(post, label) for label in RULES})
            text = f"{name} {fault_in_words(detail, max_bytes)}"
            raise refusal(Reason.INVALID_POST, known, detail, name, text)
    return post
