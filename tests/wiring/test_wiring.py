"""The protos, unedited, in other languages: each language compiles them and writes one request, which is read here.

`make wiring` runs this, and `make test` does not: the compilers are downloads. Go is a wheel, Java's compiler a jar for
the Java that runs the local Kafka. Node and npm must be installed.
"""

from __future__ import annotations

import base64
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from moderation.dev import jars
from moderation.v1.moderation_service_pb2 import ModeratePostRequest
from moderation.v1.post_pb2 import Image, Post
from tests.kubernetes.programs import run_go

HERE = Path(__file__).parent
PROTOS = HERE.parents[1] / "protos"
SOURCES = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
JARS = ("com.google.protobuf:protobuf-java:4.36.2", "org.eclipse.jdt:ecj:3.44.0")
REQUEST = ModeratePostRequest(post=Post(id="1", text="hello", images=[Image(data=b"\1\2\3")]), request_id="3 true")

pytestmark = pytest.mark.timeout(1800)


def protoc(*options: str) -> None:
    """Runs Google's compiler on all protos. For Go and TypeScript it needs plugins."""
    run(str(Path(sys.executable).with_name("protoc")), f"-I{PROTOS}", *options, *SOURCES, cwd=PROTOS)


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


def check(written: str) -> None:
    assert ModeratePostRequest.FromString(base64.b64decode(written)) == REQUEST


@pytest.fixture
def folder(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """A copy of the caller's sources in the language that the test is named after."""
    language = request.function.__name__.removeprefix("test_")
    return Path(shutil.copytree(HERE / language, tmp_path / language))


def test_go(folder: Path) -> None:
    run_go("build", "-o", f"{folder}/bin/", "tool", cwd=folder)
    plugins = [f"--plugin={path}" for path in sorted((folder / "bin").iterdir())]
    assert len(plugins) == 2
    protoc(*plugins, f"--go_out={folder}", f"--go-grpc_out={folder}")
    run_go("vet", "./...", cwd=folder)
    check(run_go("run", ".", cwd=folder))


def test_java(folder: Path) -> None:
    protoc(f"--java_out={folder}")
    assert (folder / "moderation/v1/GetVerdictRequest.java").is_file()
    libraries = [str(path) for path in jars.resolve(JARS, folder / "maven")]
    java, path = str(jars.find_java()), ":".join([*libraries, str(folder)])
    compiler = ("-cp", ":".join(libraries), "org.eclipse.jdt.internal.compiler.batch.Main", "-17", "-nowarn")
    run(java, *compiler, "-proc:none", "-cp", path, "-d", str(folder), str(folder), cwd=folder)
    check(run(java, "-cp", path, "Caller", cwd=folder))


def test_typescript(folder: Path) -> None:
    missing = [name for name in ("node", "npm") if not shutil.which(name)]
    assert not missing, f"TYPESCRIPT NOT TESTED: {' and '.join(missing)} not installed; install Node 20 or newer"
    run("npm", "ci", "--no-audit", "--no-fund", cwd=folder)
    plugin = folder / "node_modules/.bin/protoc-gen-es"
    protoc(f"--plugin={plugin}", f"--es_out={folder}", "--es_opt=target=ts", "--es_opt=import_extension=js")
    run(f"{folder}/node_modules/.bin/tsc", cwd=folder)
    check(run("node", "out/caller.js", cwd=folder))
