"""Writes the pages of deploy/reference/, the dashboard, the PrometheusRule and README's tables of models.

With --check, fails if one differs; the page of image-text models, which takes seconds, is left to its test.
"""

from __future__ import annotations

import ast
import runpy
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from prometheus_client import REGISTRY
from prometheus_client.metrics import MetricWrapperBase
from typer.main import get_command

import moderation
from moderation import models
from moderation.cli.app import app
from moderation.cli.settings import described
from moderation.models.general import kinds
from moderation.observability import metrics  # noqa: F401  its metrics are in the registry
from moderation.observability.events import EVENTS
from moderation.observability.fast_metrics import FastCounter, FastHistogram

PACKAGE = Path(moderation.__file__).parent
DEPLOY = Path(__file__).resolve().parent
ROOT = DEPLOY.parent
MODELS = ("<!-- models:", "<!-- end of models -->")
WRITTEN = "<!-- Written by `make reference`. Change the code and run it again. -->"

LEVELS = ("debug", "info", "warning", "error", "critical")


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table in Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '&#124;') for cell in line)} |\n" for line in lines)


def code(names: list[str]) -> str:
    """Names as code, with commas between them."""
    return ", ".join(f"`{name}`" for name in names)


# metrics.md


def metrics_page() -> str:
    """Every metric that this service defines, in the order of metrics.py."""
    rows: list[tuple[str, ...]] = []
    for metric in REGISTRY._collector_to_names:
        if isinstance(metric, FastCounter | FastHistogram):
            name, kind, labels, text = metric.name, metric.kind, metric.labels, metric.text
        elif isinstance(metric, MetricWrapperBase):
            name, kind, labels, text = metric._name, metric._type, tuple(metric._labelnames), metric._documentation
        else:
            continue  # of the process: prometheus_client defines it
        rows.append((f"`{name}_total`" if kind == "counter" else f"`{name}`", kind, code(list(labels)), text))
    return f"""# Metrics

{WRITTEN}

`GET /metrics` on the operations port (`MODERATION_OPS__LISTEN`) serves these metrics. It also serves those that
`prometheus_client` adds for the process (`process_*`, `python_*`).
A histogram has the series `_bucket`, `_sum` and `_count`.

{table(("metric", "type", "labels", "meaning"), rows)}"""


# log-events.md


@dataclass
class Event:
    """A log event, merged from all places that log it."""

    levels: set[str] = field(default_factory=set)
    modules: set[str] = field(default_factory=set)
    fields: set[str] = field(default_factory=set)


def events() -> dict[str, Event]:
    """Every event that the source logs, by name."""
    by_name: dict[str, Event] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        for name, level, fields in _logged(ast.parse(path.read_text())):
            event = by_name.setdefault(name, Event())
            event.levels.add(level)
            event.modules.add(str(path.relative_to(PACKAGE)))
            event.fields.update(fields)
    return dict(sorted(by_name.items()))


def _logged(tree: ast.AST) -> Iterator[tuple[str, str, list[str]]]:
    """Name, level and fields of each call that logs an event."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        fields = [_field(keyword.arg) for keyword in node.keywords]
        match node.func, node.args:
            case ast.Attribute(value=logger, attr="log"), [_, name] if _is_log(logger):
                yield _name(name), "any", fields
            case ast.Attribute(value=logger, attr=level), [name] if level in LEVELS and _is_log(logger):
                yield _name(name), level, fields
            # Lines that logs.py itself makes.
            case ast.Name(id="_fallback"), [name, *_]:
                yield _name(name), "any", ["about", *fields]
            case ast.Name(id="line"), [_, ast.Constant(value=str(level)), ast.Dict(keys=keys, values=[name, *_])]:
                yield _name(name), level, [_name(key) for key in keys[1:] if key]


def _name(event: ast.expr) -> str:
    assert isinstance(event, ast.Constant), f"line {event.lineno}: an event's name must be a constant"  # noqa: S101
    return str(event.value)


def _is_log(logger: ast.expr) -> bool:
    """Whether an expression is `log`, or `structlog.get_logger()`."""
    if isinstance(logger, ast.Call) and isinstance(logger.func, ast.Attribute):
        return logger.func.attr == "get_logger"
    return isinstance(logger, ast.Name) and logger.id == "log"


def _field(name: str | None) -> str:
    return {None: "...", "exc_info": "exception"}.get(name, str(name))


def log_events_page() -> str:
    """Every log event, by name."""
    rows: list[tuple[str, ...]] = []
    logged = events()
    if missing := logged.keys() - EVENTS.keys():
        sys.exit(f"moderation/observability/events.py has no sentence for {', '.join(sorted(missing))}")
    for name, event in logged.items():
        levels = sorted(event.levels, key=lambda level: LEVELS.index(level) if level in LEVELS else -1)
        fields = sorted(event.fields - {"..."}) + sorted(event.fields & {"..."})
        rows.append((f"`{name}`", ", ".join(levels), code(fields), code(sorted(event.modules)), EVENTS[name]))
    return f"""# Log events

{WRITTEN}

Logs are lines of JSON on standard error. Every line has `event`, `level` and `timestamp`. A line about a post has
`post_id`; a line within a trace has `trace_id` and `span_id`. Lines hold ids and positions, never content of a post. An
`exception` is types and frames without messages. `...` stands for fields whose names depend on the case.

{table(("event", "level", "fields", "logged by", "meaning"), rows)}"""


# settings.md and cli.md


def settings_page() -> str:
    """Every setting, group by group."""
    parts = []
    for group, members in groupby(described(), key=lambda setting: setting.group):
        rows = [
            (
                f"`{setting.variable}`",
                "first deployment" if setting.basic else "advanced",
                f"`{setting.default_in_words}`" if setting.default_in_words else "",
                setting.unit,
                setting.description + (f". One of {code(list(setting.choices))}" if setting.choices else ""),
            )
            for setting in members
        ]
        parts.append(f"## {group}\n\n{table(('variable', 'tier', 'default', 'unit', 'meaning'), rows)}")
    body = "\n".join(parts)
    return f"""# Settings

{WRITTEN}

A setting is an environment variable. `moderation settings` lists those that a first deployment sets, and
`moderation settings --all` lists all. A variable with the prefix `MODERATION_` that names no setting is an error.

{body}"""


def cli_page() -> str:
    """Every command with its arguments and options."""
    body = "\n".join(_command_section(name, command) for name, command in _commands(get_command(app), "moderation"))
    return f"""# Commands

{WRITTEN}

Each command reads the [settings](settings.md). It exits with 0 on success, 1 on a negative result or a defect, 2 on a
wrong setting, option, policy or checkpoint, 3 when the device failed and 4 when Kafka's state is unknown.

{body}"""


def _commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """(full name, command) of every command below a group."""
    for name, child in getattr(command, "commands", {}).items():
        if hasattr(child, "commands"):
            yield from _commands(child, f"{path} {name}")
        else:
            yield f"{path} {name}", child


def _command_section(name: str, command: Any) -> str:
    rows = []
    for parameter in command.params:
        names = [*parameter.opts, *parameter.secondary_opts]
        if parameter.param_type_name == "argument":
            names = [parameter.name.upper() + ("..." if parameter.nargs == -1 else "")]
        default = "required" if parameter.required else ""
        if parameter.default not in (None, "", [], False) and not parameter.required:
            default = f"`{parameter.default}`"
        rows.append((code(names), default, parameter.help or ""))
    text = " ".join((command.help or "").split())
    return f"## {name}\n\n{text}\n" + (f"\n{table(('option', 'default', 'meaning'), rows)}" if rows else "")


# Manifests, each written by a script beside it


def dashboard() -> str:
    """What Grafana loads."""
    return str(runpy.run_path(str(DEPLOY / "observe/dashboard.py"))["text"]())


def prometheus_rule() -> str:
    """The alerts, as the Prometheus operator takes them."""
    return str(runpy.run_path(str(DEPLOY / "kubernetes/components/monitoring/rules.py"))["text"]())


# README.md


def readme() -> str:
    """The page with the table of models in its place."""
    before, start, rest = (ROOT / "README.md").read_text(encoding="utf-8").partition(MODELS[0])
    _, end, after = rest.partition(MODELS[1])
    if not end:
        sys.exit(f"README.md lacks the lines {MODELS[0]} ... --> and {MODELS[1]}")
    line, _, _ = rest.partition("\n")
    return f"{before}{start}{line}\n\n{models_tables()}\n{end}{after}"


def models_tables() -> str:
    """The figures of every published checkpoint, and what was verified of each."""
    rows = [row for _, row in models.published()]
    figures = [
        (
            f"`{row.name}`" if "/" in row.name else row.name,
            f"{row.parameters / 1e9:.2f} B",
            f"{row.weight_bytes / 1e9:.1f} GB",
            row.licence,
            f"{row.memory_bytes / 1e9:.1f} GB",
            f"{row.context:,}",
            f"{row.image_tokens:,}",
        )
        for row in rows
    ]
    verified: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        verified.setdefault((row.verified, row.unverified), []).append(row.name.rpartition("/")[2])
    for kind in models.kinds():
        verified.setdefault((kind.verified, kind.unverified), []).append(kind.title)
    texts = [("; ".join(names), done, open_) for (done, open_), names in verified.items()]
    general = [(kind.title, f"`{kind.name}`", f"`{kind.class_}`", kind.turns) for kind in models.kinds()]
    kinds = table(("others", "`model_type`", "class of transformers", "why a user's words end no turn"), general)
    head = ("model", "parameters", "size", "licence", "memory", "context", "picture")
    return f"{table(head, figures)}\n{kinds}\n{table(('model', 'verified', 'not verified'), texts)}"


# image-text-models.md


def kinds_page() -> str:
    """Every image-text model of the installed transformers, and what its pictures need."""
    from transformers import __version__  # noqa: PLC0415 - slow

    found = kinds.kinds()
    ready = sum(not kind.lacks for kind in found)
    rows = [
        (
            f"`{kind.name}`",
            f"`{kind.class_}`",
            f"`{kind.images}`" if kind.images else "as its files say",
            kind.lacks or "nothing",
        )
        for kind in found
    ]
    return f"""# Image-text models of transformers

{WRITTEN}

A checkpoint that no family of this service runs is run by transformers' own class, where its `model_type` is in this
table. This service does not install torchvision. Transformers {__version__} has {len(found)} kinds, and the pictures of
{ready} of them need nothing more. `torchvision` and `pytesseract` are libraries to install beside torch. The other
entries of the last column are parts of a processor that this service has not.

The table is about pictures alone. Whether a checkpoint runs also depends on its chat template and its network: the
service says why it refuses one.

{table(("model_type", "class", "image processor", "needs"), rows)}"""


# All files

SLOW: dict[str, Callable[[], str]] = {  # tests/integration/models/test_general_kinds.py holds them, and no commit waits
    "reference/image-text-models.md": kinds_page,
}
FILES: dict[str, Callable[[], str]] = {
    "reference/metrics.md": metrics_page,
    "reference/log-events.md": log_events_page,
    "reference/settings.md": settings_page,
    "reference/cli.md": cli_page,
    "observe/dashboard.json": dashboard,
    "kubernetes/components/monitoring/prometheus-rule.yaml": prometheus_rule,
    "../README.md": readme,
}


def check() -> int:
    """The number of files that differ from what is written now, each named on standard error."""
    differing = [
        name
        for name, text in FILES.items()
        if not (DEPLOY / name).exists() or (DEPLOY / name).read_text(encoding="utf-8") != text()
    ]
    for name in differing:
        print(f"{(DEPLOY / name).resolve().relative_to(ROOT)} is out of date: run `make reference`", file=sys.stderr)
    return len(differing)


def write() -> None:
    """Writes every file."""
    for name, text in {**FILES, **SLOW}.items():
        (DEPLOY / name).write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        sys.exit(1 if check() else 0)
    write()
