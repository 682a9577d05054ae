"""The alerts in a world whose time runs faster: all durations, and thresholds in seconds, divided by one number."""

from __future__ import annotations

import re
from pathlib import Path

RULES = Path(__file__).parents[2] / "deploy" / "observe" / "rules.yaml"
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
DURATION = re.compile(r"(\[|(?<=[smhd]):|offset |(?:for|keep_firing_for|interval): )(\d+)([smhd])\b")
MINUTES = re.compile(r"\* 60\b(?! \* 60)")


def scaled(factor: float, text: str | None = None) -> str:
    """The text of rules.yaml, `factor` times as fast. Scrape a worker at least ten times in its shortest window."""

    def shorter(match: re.Match[str]) -> str:
        before, number, unit = match.groups()
        return f"{before}{max(1, round(int(number) * UNITS[unit] * 1000 / factor))}ms"

    text = RULES.read_text("utf-8") if text is None else text
    return MINUTES.sub(f"* {60 / factor:g}", DURATION.sub(shorter, text))
