"""What the panels of dashboard.py are made of: queries, graphs, and the variables that readers choose."""

from __future__ import annotations

import re
from typing import Any

DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}
CHOICE = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"} | {
    "current": {},
    "hide": 0,
}
SCOPE = ("namespace", "installation")  # labels of the scrape: one Prometheus may see several installations
VARIABLES = [CHOICE] + [
    {"name": label, "label": label.capitalize(), "type": "query", "datasource": DATASOURCE, "refresh": 2}
    | {"query": f"label_values(moderation_build_info, {label})", "includeAll": True, "multi": True, "allValue": ".*"}
    | {"current": {"text": "All", "value": "$__all"}, "hide": 0}
    for label in SCOPE
]
RATE = "$__rate_interval"
WIDTH, HEIGHT = 24, 8


def rate(metric: str, by: str = "", where: str = "") -> str:
    """The query of a counter's rate per second."""
    return f"sum{f' by ({by})' if by else ''} (rate({metric}{where}[{RATE}]))"


def by_instance(metric: str) -> tuple[str, str]:
    """The sum of a gauge's series by process, and the name of the line."""
    return f"sum by (instance) ({metric})", "{{instance}}"


def quantile(share: float, metric: str, by: str = "", where: str = "") -> str:
    """The query of a histogram's quantile."""
    inside = rate(f"{metric}_bucket", f"le, {by}" if by else "le", where)
    return f"histogram_quantile({share}, {inside})"


def mean(metric: str) -> str:
    """The query of a histogram's mean."""
    return f"{rate(f'{metric}_sum')} / {rate(f'{metric}_count')}"


def scoped(query: str) -> str:
    """The query, for the installations that the reader has chosen."""
    chosen = ", ".join(f'{label}=~"${label}"' for label in SCOPE)

    def select(match: re.Match[str]) -> str:
        name, braces = match.group(1), match.group(2)
        return f"{name}{{{chosen}, " if braces else f"{name}{{{chosen}}}"

    return re.sub(r"\b((?:moderation|process)_\w+)(\{)?", select, query)


def panel(title: str, text: str, unit: str, *lines: tuple[str, str], kind: str = "timeseries", width: int = 8) -> Any:
    """One graph, its unit in Grafana's spelling."""
    made: dict[str, Any] = {
        "type": kind,
        "title": title,
        "description": text,
        "datasource": DATASOURCE,
        "gridPos": {"w": width, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": unit, "min": 0}, "overrides": []},
        "targets": [
            {"refId": chr(ord("A") + index), "datasource": DATASOURCE, "expr": scoped(query), "legendFormat": legend}
            for index, (query, legend) in enumerate(lines)
        ],
    }
    if kind == "timeseries":
        made["fieldConfig"]["defaults"]["custom"] = {"fillOpacity": 10, "showPoints": "never"}
        made["options"] = {
            "legend": {"displayMode": "list", "placement": "bottom"},
            "tooltip": {"mode": "multi", "sort": "desc"},
        }
    if kind == "stat":
        made["gridPos"] = {"w": 6, "h": 4}
        made["options"] = {"reduceOptions": {"calcs": ["lastNotNull"]}, "graphMode": "area", "colorMode": "value"}
    if kind == "table":
        for target in made["targets"]:
            target |= {"format": "table", "instant": True}
        hidden = {"Time": True, "Value": True, "__name__": True, "job": True}
        made["transformations"] = [{"id": "organize", "options": {"excludeByName": hidden}}]
    return made
