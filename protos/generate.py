"""Generates moderation/v1/ and the JSON Schemas from protos/. With --check, fails if a committed file differs."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from grpc_tools import protoc

PROTOS = Path(__file__).resolve().parent
REPO = PROTOS.parent
PACKAGE = Path("moderation/v1")
INCLUDES = (f"-I{PROTOS}", f"-I{Path(protoc.__file__).parent / '_proto'}")
SOURCES = sorted(str(path.relative_to(PROTOS)) for path in (PROTOS / PACKAGE).glob("*.proto"))
READ, WRITTEN = "moderation.v1.Post", "moderation.v1.Verdict"  # values of records on the topics

# Protobuf's JSON mapping. 64-bit numbers are strings there; bytes are base64.
JSON_TYPES: dict[int, dict[str, Any]] = {
    FieldDescriptor.TYPE_STRING: {"type": "string"},
    FieldDescriptor.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
    FieldDescriptor.TYPE_DOUBLE: {"type": "number"},
    FieldDescriptor.TYPE_BOOL: {"type": "boolean"},
    FieldDescriptor.TYPE_INT32: {"type": "integer", "minimum": -(1 << 31), "maximum": (1 << 31) - 1},
    FieldDescriptor.TYPE_INT64: {"type": "string", "pattern": "^-?[0-9]+$"},
}


def generate(out: Path) -> None:
    """Writes the modules, their type stubs and the gRPC stubs under `out`."""
    options = [f"--python_out={out}", f"--pyi_out={out}", f"--grpc_python_out={out}"]
    if protoc.main(["protoc", *INCLUDES, *options, *SOURCES]):
        sys.exit("protoc failed: see its message above")
    (out / PACKAGE / "__init__.py").write_text('"""Generated from protos/ by `make protos`; never edited."""\n')
    for service in (out / PACKAGE).glob("*_pb2_grpc.py"):
        if "_service_" not in service.name:
            service.unlink()  # messages only: protoc writes an empty module for each


def schemas(out: Path) -> None:
    """Writes the JSON Schemas of posts and verdicts into `out`."""
    from post_schema import DEFINITIONS, RULES  # noqa: PLC0415  imports what is generated here, and may be broken

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "descriptors"
        if protoc.main(["protoc", *INCLUDES, f"--descriptor_set_out={file}", "--include_imports", *SOURCES]):
            sys.exit("protoc failed: see its message above")
        pool = descriptor_pool.DescriptorPool()
        for descriptor in descriptor_pb2.FileDescriptorSet.FromString(file.read_bytes()).file:
            pool.Add(descriptor)
    for name, rules, more in ((READ, RULES, DEFINITIONS), (WRITTEN, None, {})):
        definitions: dict[str, Any] = {}
        _define(pool.FindMessageTypeByName(name), definitions, rules)
        schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": name, **definitions.pop(name)}
        path = out / f"{name.rpartition('.')[2].lower()}.schema.json"
        path.write_text(json.dumps(schema | {"$defs": definitions | more}, indent=2) + "\n")


def _define(message: Descriptor, definitions: dict[str, Any], rules: Mapping[str, Any] | None) -> None:
    """`rules`: of a value that is read, by full name. Its fields may be null. None: of a value that is written."""
    properties: dict[str, Any] = {}
    definitions[message.full_name] = {"type": "object", "properties": properties, "additionalProperties": False}
    for field in message.fields:
        schema = _field(field, definitions, rules)
        schema = {"type": "array", "items": schema} if field.is_repeated else schema
        if rules is not None:
            schema = schema | {"type": [schema["type"], "null"]} | rules.get(field.full_name, {})
        properties[field.json_name] = schema
    for group in message.oneofs:
        if not group.name.startswith("_"):  # else it stands for an `optional` field
            definitions[message.full_name]["oneOf"] = [{"required": [field.json_name]} for field in group.fields]
    definitions[message.full_name].update((rules or {}).get(message.full_name, {}))


def _field(field: FieldDescriptor, definitions: dict[str, Any], rules: Mapping[str, Any] | None) -> dict[str, Any]:
    if field.enum_type is not None:
        return {"enum": [value.name for value in field.enum_type.values]}
    if field.message_type is None:
        return JSON_TYPES[field.type]
    name = field.message_type.full_name
    if name == "google.protobuf.Timestamp":
        return {"type": "string", "format": "date-time"}
    if name not in definitions:
        _define(field.message_type, definitions, rules)
    return {"$ref": f"#/$defs/{name}"}


def check() -> int:
    """The number of files that differ from a fresh generation, each named on standard error."""
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "protos" / PACKAGE).mkdir(parents=True)
        everything(Path(folder))
        fresh = {path.relative_to(folder): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}
    committed = {
        path.relative_to(REPO): path.read_bytes()
        for path in (*(REPO / PACKAGE).iterdir(), *(PROTOS / PACKAGE).glob("*.json"))
        if path.is_file()
    }
    differing = sorted(name for name in fresh | committed if fresh.get(name) != committed.get(name))
    for name in differing:
        print(f"{name} differs from protos/: run `make protos` and commit", file=sys.stderr)
    return len(differing)


def everything(out: Path) -> None:
    """Writes all generated files below `out`, at the same paths as in the repository."""
    generate(out)
    schemas(out / "protos" / PACKAGE)


if __name__ == "__main__":
    if "--check" in sys.argv[1:]:
        sys.exit(1 if check() else 0)
    everything(REPO)
