"""A post as model servers get it: windows of text, pictures as JPEG files, nothing that reads as a control token."""

from __future__ import annotations

from collections.abc import Sequence

from moderation.models.remote.wire import Window
from moderation.settings import ModelSettings
from moderation.types import Content, Question

VERSION = 1  # of what this module does to a post; part of the model's digest


def windows(content: Content, questions: Sequence[Question], settings: ModelSettings) -> Sequence[Window]:
    """One window for each stretch of the text, all with all pictures. Raises PostError."""
    raise NotImplementedError


def halves(window: Window) -> Sequence[Window]:
    """The window as two, for a server whose context is too small; empty if it cannot be cut further."""
    raise NotImplementedError
