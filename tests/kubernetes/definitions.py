"""The definitions of foreign resources, as their makers publish them: KEDA's, the Prometheus operator's, Strimzi's.

The first two lie in the source of their Go modules. Strimzi's are generated from its published Java types, by its own
generator.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from moderation.dev.jars import KafkaUnavailable, find_java
from tests.kubernetes.programs import Unavailable, held_cache, module

KEDA = ("github.com/kedacore/keda/v2", "v2.21.0")
PROMETHEUS = ("github.com/prometheus-operator/prometheus-operator", "v0.85.0")
STRIMZI = "1.2.0"
STRIMZI_TYPES = {
    "kafkatopics": "io.strimzi.api.kafka.model.topic.KafkaTopic",
    "kafkausers": "io.strimzi.api.kafka.model.user.KafkaUser",
}


def definitions(progress: Callable[[str], object]) -> list[Path]:
    """Files with CustomResourceDefinitions, from the caches or fetched now. Raises Unavailable."""
    keda = module(*KEDA) / "config" / "crd" / "bases"
    prometheus = module(*PROMETHEUS) / "example" / "prometheus-operator-crd"
    return [
        *sorted(keda.glob("keda.sh_*.yaml")),
        *(prometheus / f"monitoring.coreos.com_{name}.yaml" for name in ("podmonitors", "prometheusrules")),
        *_strimzi(progress),
    ]


def _strimzi(progress: Callable[[str], object]) -> list[Path]:
    with held_cache() as cache:
        folder = cache.parent / f"strimzi-{STRIMZI}"
        files = [folder / f"kafka.strimzi.io_{plural}.yaml" for plural in STRIMZI_TYPES]
        if not all(file.exists() for file in files):
            progress(f"generating the definitions of Strimzi {STRIMZI}, once, into {folder}")
            with tempfile.TemporaryDirectory(dir=cache, prefix=".strimzi-") as scratch:
                made = Path(scratch, "made")
                made.mkdir()
                _generate(Path(scratch, "maven"), made, [file.name for file in files])
                shutil.rmtree(folder, ignore_errors=True)
                made.rename(folder)
    return files


def _generate(repository: Path, folder: Path, names: list[str]) -> None:
    try:
        java = find_java()
        from jgo.maven import MavenContext
        from jgo.parse import Coordinate
    except (KafkaUnavailable, ImportError) as error:
        raise Unavailable(f"Strimzi's definitions cannot be generated: {error}") from None
    maven = MavenContext(repo_cache=repository)
    try:
        roots = [
            maven.create_dependency(replace(Coordinate.parse(f"io.strimzi:{name}:{STRIMZI}"), scope="compile"))
            for name in ("api", "crd-generator")
        ]
        given, implied = maven.resolver.resolve(roots)
        jars = [each.artifact.resolve() for each in (*given, *implied) if each.scope in ("compile", "runtime")]
    except Exception as error:  # jgo's network, XML and version errors have no common root
        raise Unavailable(f"Strimzi's types could not be fetched ({type(error).__name__}: {error})") from error
    # Absolute: without a directory part in the path the generator fails.
    wanted = [f"{type}={folder / name}" for type, name in zip(STRIMZI_TYPES.values(), names, strict=True)]
    command = [str(java), "-cp", ":".join(map(str, jars)), "io.strimzi.crdgenerator.CrdGenerator", "--yaml", *wanted]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if missing := [name for name in names if not (folder / name).exists()]:
        raise Unavailable(f"Strimzi's generator wrote no {' and no '.join(missing)}:\n{answer.stderr[-2000:]}")
