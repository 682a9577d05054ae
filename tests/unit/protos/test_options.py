"""Generators of other languages take the protos as they are: each file has the options that they need."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool

from moderation.v1 import moderation_service_pb2  # noqa: F401  puts the files into the pool, with what they import

PROTOS = Path(__file__).parents[3] / "protos"
FILES = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
PACKAGE = "moderation.v1"


def described(name: str) -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto()
    descriptor_pool.Default().FindFileByName(name).CopyToProto(file)
    return file


@pytest.mark.parametrize("name", FILES)
def test_each_file_has_the_options_of_its_package(name: str) -> None:
    file = described(name)
    options = file.options
    assert file.package == PACKAGE
    assert options.java_package == PACKAGE, "a class is named as its message is"
    assert options.java_multiple_files, "a class is not within another, which is named after a file"
    path, _, go_package = options.go_package.partition(";")
    assert path == str(Path(name).parent), "protoc-gen-go puts the code beside the proto"
    assert go_package == PACKAGE.replace(".", ""), "the last part of the path, v1, would name every package"
    assert options.objc_class_prefix == "MOD", "Objective-C has one namespace"


def test_no_two_classes_of_java_have_one_file() -> None:
    names = []
    for file in map(described, FILES):
        names += [member.name for group in (file.message_type, file.enum_type) for member in group]
        names += [file.options.java_outer_classname, *(f"{service.name}Grpc" for service in file.service)]
    assert all(names), "the default is another where a message is named as its file is"
    folded = [name.lower() for name in names]  # some file systems do not tell case apart
    assert sorted(folded) == sorted(set(folded))
