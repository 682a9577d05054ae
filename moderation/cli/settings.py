"""`moderation settings`: list the settings."""

from __future__ import annotations

from moderation import settings
from moderation.cli.options import out


def print_settings() -> None:
    """List every setting: the variable, its default, what it does."""
    settings.load()  # names the variables that are set and wrong
    for variable, default, description in settings.knobs():
        out.print(f"{variable}={default}", style="bold", highlight=False, markup=False)
        out.print(f"    {description}", highlight=False, markup=False)
