"""Who may import whom. A module that is not in the table fails: say where it belongs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import moderation

PACKAGE = Path(moderation.__file__).parent

# A row imports rows below it.
ROWS = [
    "__main__ cli bench demo",
    "runtime worker processor watchdog vitals lane recall publisher api checks reflection service admission bodies "
    "connections watching ledger guard posts verdicts entries freshness kafka client show ops top exporter health",
    "moderator wire requests answers recent feeds stores view_lag",
    "memory verdict_json fastjson tokens refusals keys suspects isolation jwks certificates consumer prescan",
    "records",
    "batcher encoders failed_posts models post_queue self_check",
    "prompts policies media",
    "types errors settings telemetry traces metrics tally room phases deadline_pool shares decompression v1 log_writer",
]
# And these, within their row.
SIDEWAYS = {
    "__main__": "cli",
    "cli": "bench demo",
    "bench": "demo",
    "worker": "kafka lane ops processor publisher recall runtime vitals watchdog",
    "watchdog": "lane",
    "processor": "lane publisher",
    "vitals": "lane ops",
    "recall": "kafka",
    "lane": "kafka publisher",
    "publisher": "kafka",
    "api": "admission checks connections guard kafka ops posts reflection runtime service verdicts",
    "checks": "bodies connections guard ops service",
    "reflection": "admission bodies guard",
    "service": "admission guard ledger posts verdicts watching",
    "admission": "bodies connections guard",
    "watching": "guard verdicts",
    "ledger": "posts",
    "requests": "stores wire",
    "recent": "answers stores",
    "view_lag": "stores",
    "feeds": "stores",
    "posts": "kafka",
    "verdicts": "entries freshness kafka",
    "batcher": "encoders failed_posts models post_queue self_check",
    "encoders": "models",
    "post_queue": "models",
    "self_check": "models",
    "policies": "prompts",
    "keys": "jwks",
    "telemetry": "log_writer settings traces",
    "log_writer": "metrics",
    "traces": "types",
    "metrics": "tally types",
    "settings": "errors",
    "errors": "types",
    "deadline_pool": "errors",
}
# Only these import them.
LIBRARIES = {
    "aiokafka": "kafka consumer records worker watchdog vitals publisher recall posts verdicts freshness bench demo",
    "grpc": "api checks reflection service admission bodies ledger guard certificates refusals client health demo "
    "bench v1",
    "grpc_health": "checks health demo",
    "grpc_reflection": "reflection",
    "grpc_status": "refusals client",
    "jwt": "guard keys",
    "opentelemetry": "traces exporter",
    "prometheus_client": "metrics tally ops top",
    "sqlite3": "stores",
    "asyncpg": "stores",
    "torch": "models demo bench",
    "transformers": "models demo bench",
}

ROW_OF = {part: index for index, row in enumerate(ROWS) for part in row.split()}
PATHS = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


def name_of(path: Path) -> str:
    """models.tree for moderation/models/tree.py, models for its __init__.py."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


MODULES = {name_of(path): path for path in PATHS}


def imports_of(path: Path) -> Iterator[str]:
    """Full names; of ours without the leading package, and of a package's members the member."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield name if name.split(".")[0] != "moderation" else "moderation." + ours(name)


def ours(name: str) -> str:
    """The module that a dotted name of ours is in: moderation.errors.PostError is in errors."""
    parts = name.split(".")[1:]
    while parts and ".".join(parts) not in MODULES:
        parts.pop()
    return ".".join(parts)


@pytest.mark.parametrize("module", MODULES)
def test_imports_point_down(module: str) -> None:
    part = module.split(".", maxsplit=1)[0]
    assert part in ROW_OF, f"{module} is not in the table"
    for name in imports_of(MODULES[module]):
        top, _, rest = name.partition(".")
        if top in LIBRARIES:
            assert part in LIBRARIES[top].split(), f"{module} imports {name}"
        other = rest.split(".")[0]
        if top != "moderation" or not other or other == part:
            continue
        allowed = ROW_OF[other] > ROW_OF[part] or other in SIDEWAYS.get(part, "").split()
        assert allowed, f"{module} imports {name}"


def test_no_cycles() -> None:
    graph = {
        module: {name.removeprefix("moderation.") for name in imports_of(path) if name.startswith("moderation.")}
        for module, path in MODULES.items()
    }
    for module, names in graph.items():
        names.discard(module)
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


def test_opentelemetry_is_its_api_alone_but_where_spans_leave() -> None:
    sdk = ("opentelemetry.sdk", "opentelemetry.exporter")
    users = {module for module, path in MODULES.items() if any(name.startswith(sdk) for name in imports_of(path))}
    assert users == {"exporter"}


def test_the_api_and_the_command_line_are_light() -> None:
    program = (
        "import sys, moderation.api, moderation.client, moderation.cli;"
        "print(*({'torch', 'transformers', 'PIL', 'numpy', 'asyncpg', 'opentelemetry.sdk'} & sys.modules.keys()))"
    )
    heavy = subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True, timeout=60)
    assert heavy.stdout == "\n"
