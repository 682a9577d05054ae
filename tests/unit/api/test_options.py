"""Options of gRPC are read by name, and unknown names are ignored silently: each name must stand in the library."""

from __future__ import annotations

import re
from pathlib import Path

import grpc._cython

import moderation

NAMES = re.compile(rb'\("(grpc\.[a-z0-9_.]+)", ')


def test_grpc_knows_every_option_that_is_set() -> None:
    (library,) = (path.read_bytes() for path in Path(grpc._cython.__path__[0]).glob("cygrpc*.so"))
    sources = Path(moderation.__file__).parent.rglob("*.py")
    names = {name for source in sources for name in NAMES.findall(source.read_bytes())}
    assert len(names) > 10
    assert [name for name in sorted(names) if name + b"\0" not in library] == []
