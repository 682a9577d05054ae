"""A situation: what is done to an installation, and what an operator must then be told."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field

from tests.alerts.site import Site

# Makes an installation, causes the trouble (`site.caused()`), yields, undoes the cause.
Story = Callable[[Site], AsyncGenerator[None, None]]


@dataclass(frozen=True)
class Alert:
    """An alert that must fire. `labels`: those that name the culprit, besides namespace and installation."""

    name: str
    labels: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Situation:
    """`caused`: how. `top`: words of the first line of `moderation top`; empty: it is not asked to say anything.

    `silent`: what an operator was told before there was a rule for it; empty: the alert is old. `limit_s`: seconds of
    the rig in which the alerts must fire, and resolve. `quiet`: no alert may fire for so long.
    """

    name: str
    caused: str
    story: Story
    alerts: tuple[Alert, ...]
    top: str = ""
    silent: str = ""
    limit_s: float = 300.0
    quiet: float = 0.0


SITUATIONS: dict[str, Situation] = {}


def situation(
    *alerts: str | Alert, caused: str, top: str = "", silent: str = "", limit_s: float = 300.0, quiet: float = 0.0
) -> Callable[[Story], Story]:
    """Registers a story under its function's name."""

    def register(story: Story) -> Story:
        name = story.__name__.replace("_", "-")
        wanted = tuple(Alert(each) if isinstance(each, str) else each for each in alerts)
        SITUATIONS[name] = Situation(name, caused, story, wanted, top, silent, limit_s, quiet)
        return story

    return register
