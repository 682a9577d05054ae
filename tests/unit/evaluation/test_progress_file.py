"""Verdicts of a command that is killed are there when it starts again, and none of another question is."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from moderation.errors import ConfigError
from moderation.evaluation.progress_file import ProgressFile
from moderation.types import Image
from moderation.v1.verdict_pb2 import OUTCOME_REMOVE, Finding, Verdict
from tests.support.builders import a_post

VERDICT = Verdict(
    post_id="a", outcome=OUTCOME_REMOVE, findings=[Finding(policy_id="lakes", probability=0.1 + 0.2, mass=1e-12)]
)


def test_what_was_added_is_there_again(tmp_path: Path) -> None:
    path = tmp_path / "out.csv.part"
    with ProgressFile(path, "q") as kept:
        assert kept.get(a_post("a", text="x")) is None
        kept.add(a_post("a", text="words-of-a-post"), VERDICT)
        kept.add(a_post("b", text="y"), Verdict(post_id="b"))
    assert b"words-of-a-post" not in path.read_bytes()
    with ProgressFile(path, "q") as kept:
        assert len(kept) == 2
        found = kept.get(a_post("line-9", text="words-of-a-post"))
        assert found is not None
        assert found.post_id == "line-9"
        found.post_id = "a"
        assert found == VERDICT
        assert kept.get(a_post("a", text="words-of-a-post", language="de")) is None
        kept.done()
    assert not path.exists()


def test_a_line_that_was_cut_off_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "out.csv.part"
    with ProgressFile(path, "q") as kept:
        for name in ("a", "b"):
            kept.add(a_post(name, text=name), Verdict(post_id=name))
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        with ProgressFile(path, "q") as kept:
            assert len(kept) == max(0, whole[:size].count(b"\n") - 1)
            for name in ("a", "b"):
                if kept.get(a_post(name, text=name)) is None:
                    kept.add(a_post(name, text=name), Verdict(post_id=name))
        assert path.read_bytes() == whole


def test_another_question_begins_again(tmp_path: Path) -> None:
    path = tmp_path / "out.csv.part"
    with ProgressFile(path, "q") as kept:
        kept.add(a_post("a"), VERDICT)
    with ProgressFile(path, "other") as kept:
        assert len(kept) == 0
    with ProgressFile(path, "q") as kept:
        assert len(kept) == 0


def test_a_picture_that_was_written_again_is_another(tmp_path: Path) -> None:
    picture = tmp_path / "a.png"
    picture.write_bytes(b"one")
    post = replace(a_post("a"), images=(Image(uri=picture.as_uri()),))
    with ProgressFile(tmp_path / "part", "q") as kept:
        kept.add(post, VERDICT)
        assert kept.get(post) is not None
        os.utime(picture, ns=(1, 1))
        assert kept.get(post) is None


def test_a_place_that_takes_no_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="part: not written: no such file"):
        ProgressFile(tmp_path / "gone" / "part", "q")
