"""Kafka's own tools, as their scripts run them: from the jars of the local Kafka, and one more."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path

from moderation.dev.jars import VERSION, KafkaUnavailable, cache_folder, fetch_jars, find_java

JAR = f"kafka-tools-{VERSION}.jar"
SHA256 = "62f3c5dd7aa3442d4c5bc6a95f86e2502178ea09de8e27f74d9563bf955e253c"  # of the jar, because it is run
# The class that bin/<script> of a distribution starts.
CLASSES = {
    "kafka-configs.sh": "kafka.admin.ConfigCommand",
    "kafka-consumer-groups.sh": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    "kafka-transactions.sh": "org.apache.kafka.tools.TransactionsCommand",
}


def run(*command: str, folder: Path) -> str:
    """What a tool prints. `command` begins with its script. Raises AssertionError with what it says, if it fails."""
    java = (str(find_java()), "-Xmx128m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Dlog4j2.level=ERROR")
    classes = f"{_jar()}{os.pathsep}{fetch_jars(print)}{os.sep}*"
    done = subprocess.run(
        [*java, "-cp", classes, CLASSES[command[0]], *command[1:]],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}{done.stderr}"
    return done.stdout


def _jar() -> Path:
    """From the cache, or once from Maven Central. Raises KafkaUnavailable."""
    jar = cache_folder().parent / JAR
    if jar.exists():
        return jar
    try:
        import truststore
        from jgo.maven import MavenContext
        from jgo.parse import Coordinate
    except ImportError as error:
        raise KafkaUnavailable(f"{JAR} is not in the cache, and no jgo to fetch it with") from error
    with tempfile.TemporaryDirectory(dir=jar.parent, prefix=".fetch-") as scratch:
        maven = MavenContext(repo_cache=Path(scratch, "maven"))
        truststore.inject_into_ssl()
        try:
            coordinate = replace(Coordinate.parse(f"org.apache.kafka:kafka-tools:{VERSION}"), scope="compile")
            fetched = maven.create_dependency(coordinate).artifact.resolve()
        except Exception as error:  # jgo's network, XML and version errors have no common base class
            raise KafkaUnavailable(f"{JAR} could not be fetched ({type(error).__name__}: {error})") from error
        finally:
            truststore.extract_from_ssl()
        if (digest := hashlib.sha256(fetched.read_bytes()).hexdigest()) != SHA256:
            raise KafkaUnavailable(f"the fetched {JAR} (sha256 {digest}) is another one")
        shutil.copy(fetched, half := Path(scratch, JAR))
        half.rename(jar)
    return jar
