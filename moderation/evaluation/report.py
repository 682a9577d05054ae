"""Reports: one page of HTML that needs nothing else, with plots as inline SVG. What stands in posts is escaped."""

from __future__ import annotations

from functools import lru_cache
from io import StringIO
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

import moderation

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def page(template: str, title: str, **values: Any) -> str:
    """The page of a template in `templates/`, which extends base.html.j2. values: what the template names."""
    return _environment().get_template(template).render(title=title, version=moderation.__version__, **values)


def figure(width: float = 6.0, height: float = 3.2) -> Figure:
    """An empty figure, in inches. It belongs to no window and to no global state."""
    from matplotlib.figure import Figure  # noqa: PLC0415  half a second, for commands that draw

    return Figure(figsize=(width, height), layout="constrained")


def svg(figure: Figure) -> Markup:
    """The figure for a page. The same figure always gives the same text."""
    import matplotlib  # noqa: PLC0415  half a second, for commands that draw

    text = StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "moderation"}):
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    drawn = text.getvalue()
    return Markup(drawn[drawn.index("<svg") :])  # noqa: S704  matplotlib escapes texts


@lru_cache(maxsize=1)
def _environment() -> Environment:
    loader = PackageLoader("moderation.evaluation", "templates")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
