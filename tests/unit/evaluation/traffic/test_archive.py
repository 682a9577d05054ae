"""The archive: each commit is whole or never was, wherever a process ends; erased posts leave it; readers see days."""

from __future__ import annotations

import itertools
import json
import os
import random
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from moderation import wire
from moderation.errors import ConfigError
from moderation.evaluation.changes.redeciding import COLUMNS, redecide
from moderation.evaluation.traffic import archive as module
from moderation.evaluation.traffic.archive import Archive, Erased, State, batches, by_day, state_of
from moderation.evaluation.traffic.rows import SCHEMA, Place, Rows
from moderation.types import Problem, Reason
from tests.support.builders import a_policy
from tests.support.past_traffic import DAY_MS, NOW, a_set, past

START_MS = int(NOW * 1000) // DAY_MS * DAY_MS


def rows(first: int, last: int, day: int = 0, partition: int = 0) -> list[Any]:
    """Verdicts with these offsets, written on this day; the ids of posts are those of the offsets."""
    policies, found = a_set(a_policy()), Rows()
    generator = random.Random(first)
    for offset in range(first, last):
        verdict = past(generator, policies, offset).verdict
        found.add(wire.verdict_message(verdict), Place(START_MS + day * DAY_MS + offset, "life", partition, offset))
    return [found.taken()]


def held(folder: Path) -> list[tuple[int, int]]:
    """Partition and offset of each row that a reader sees."""
    return sorted(
        (row["partition"], row["offset"])
        for batch in batches(folder, ["partition", "offset"])
        for row in batch.to_pylist()
    )


def up_to(offset: int, **fields: Any) -> State:
    return State(topic="verdicts", topic_id="life", offsets={0: offset}, **fields)


class Ended(BaseException):
    """The process ends here."""


class Ending:
    """Ends the process at the given call of what moves files and writes them to the disk."""

    def __init__(self, patch: pytest.MonkeyPatch, at: int) -> None:
        self.calls = 0
        for owner, name in ((os, "fsync"), (Path, "replace"), (Path, "unlink"), (Path, "mkdir")):
            patch.setattr(owner, name, self._counted(getattr(owner, name), at))

    def _counted(self, call: Any, at: int) -> Any:
        def counted(*given: Any, **named: Any) -> Any:
            self.calls += 1
            if self.calls == at:
                raise Ended
            return call(*given, **named)

        return counted


def everywhere(folder: Path, begin: Callable[[Path], None], go_on: Callable[[Path], None]) -> Iterator[Path]:
    """Yields, for each step at which a process can end while it does `go_on`, a folder where it did."""
    for at in itertools.count(1):
        path = folder / str(at)
        begin(path)
        with pytest.MonkeyPatch.context() as patch:
            ending = Ending(patch, at)
            with suppress(Ended):
                go_on(path)
        if ending.calls < at:
            assert at > 10, "it has many steps"
            return
        yield path


def test_a_commit_is_whole_or_never_was_wherever_a_process_ends(tmp_path: Path) -> None:
    def begin(path: Path) -> None:
        with Archive.opened(path) as archive:
            archive.add(rows(0, 20), up_to(20))

    def go_on(path: Path) -> None:
        with Archive.opened(path) as archive:
            archive.add([*rows(20, 30), *rows(30, 40, day=1)], up_to(40))

    starts = set()
    for path in everywhere(tmp_path, begin, go_on):
        state = state_of(path)
        assert state is not None
        assert held(path) == [(0, offset) for offset in range(state.offsets[0])], "a reader sees it so at once"
        with Archive.opened(path) as archive:
            start = archive.state.offsets[0]
            starts.add(start)
            archive.add(rows(start, 50, day=1), up_to(50))
        assert held(path) == [(0, offset) for offset in range(50)]
        assert not list((path / ".writing").iterdir())
        visible = [pq.read_metadata(file).num_rows for file in path.glob("day=*/*.parquet")]
        assert sum(visible) == 50, "other programs see the same"
    assert starts == {20, 40}


def test_an_erasure_is_carried_out_wherever_a_process_ended(tmp_path: Path) -> None:
    def begin(path: Path) -> None:
        with Archive.opened(path) as archive:
            archive.add([*rows(0, 20), *rows(20, 30, day=1)], up_to(30, erasures=[Erased("post-7", "life", 0, 20)]))

    def go_on(path: Path) -> None:
        with Archive.opened(path) as archive:
            archive.erase()

    left = [(0, offset) for offset in range(30) if offset != 7]
    for path in everywhere(tmp_path, begin, go_on):
        assert held(path) in (left, sorted([*left, (0, 7)]))
        with Archive.opened(path) as archive:
            archive.erase()
            assert not archive.state.erasures
        assert held(path) == left
        assert not any(b"post-7" in file.read_bytes() for file in path.rglob("*") if file.is_file())


def test_an_erasure_leaves_what_came_later(tmp_path: Path) -> None:
    with Archive.opened(tmp_path) as archive:
        archive.add([*rows(0, 20), *rows(0, 20, partition=1)], up_to(20))
        earlier = [Erased("post-7", "life", 0, 7), Erased("post-8", "life", 0, 9), Erased("post-9", "other", 0, 2)]
        archive.add([], up_to(20, erasures=earlier))
        assert archive.erase() == 1 + 2, "post-9 is of an earlier life of the topic: all its rows go"
    assert {(0, 7), (1, 8)} < set(held(tmp_path))
    assert not {(0, 8), (0, 9), (1, 9)} & set(held(tmp_path))


def test_a_day_that_is_over_is_one_file(tmp_path: Path) -> None:
    with Archive.opened(tmp_path) as archive:
        for start in range(0, 40, 10):
            archive.add([*rows(start, start + 10), *rows(start, start + 10, day=1, partition=1)], up_to(start + 10))
        before = held(tmp_path)
        assert archive.join(datetime.fromtimestamp(START_MS / 1000, UTC).date() + timedelta(days=1)) == 4
        assert held(tmp_path) == before
    assert [len(list(day.iterdir())) for day in sorted(tmp_path.glob("day=*"))] == [1, 4]


def test_files_of_many_groups_and_many_words_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parquet gives up on a dictionary of more than a MiB, and each group of rows has its own."""
    monkeypatch.setattr(module, "SCAN_ROWS", 8)
    problems = tuple(Problem(Reason.IMAGE_NOT_FOUND, f"images[{number}]{'x' * 90}") for number in range(15_000))
    with Archive.opened(tmp_path) as archive:
        for start in range(0, 60, 20):
            found = Rows()
            verdict = replace(past(random.Random(1), a_set(a_policy()), start).verdict, problems=problems)
            found.add(wire.verdict_message(verdict), Place(START_MS, f"life-{start}", 1, start))
            archive.add([*rows(start, start + 20), found.taken()], up_to(start + 20))
        archive.join(date(2999, 1, 1))
    (path,) = tmp_path.glob("day=*/*.parquet")
    assert pq.read_metadata(path).num_row_groups > 2
    assert len(held(tmp_path)) == 63
    read = [row for batch in batches(tmp_path) for row in batch.to_pylist() if row["partition"] == 1]
    assert [len({problem["path"] for problem in row["problems"]}) for row in read] == [15_000] * 3
    policies = a_set(a_policy())
    assert redecide(policies, policies, batches(tmp_path, COLUMNS), now=NOW).whole.total == 63


def test_a_row_holds_all_of_a_verdict_but_no_content(tmp_path: Path) -> None:
    verdict = past(random.Random(1), a_set(a_policy()), 3).verdict
    found = Rows()
    found.add(wire.verdict_message(verdict), Place(START_MS, "life", 2, 5))
    with Archive.opened(tmp_path) as archive:
        archive.add([found.taken()], up_to(6))
    (batch,) = batches(tmp_path)
    (row,) = batch.to_pylist()
    assert batch.schema.names == SCHEMA.names
    assert (row["post_id"], row["outcome"], row["topic_id"]) == ("post-3", verdict.outcome.name, "life")
    (finding,) = verdict.findings
    (written,) = row["findings"]
    assert written["score_digest"] == finding.score_digest
    assert (written["answered"], written["windows"]) == (finding.answered, finding.windows)
    assert written["probability"] == (finding.score.probability if finding.score else None)
    names = {*SCHEMA.names, *written}
    assert not names & {"text", "alt", "images", "content"}


def test_a_period_is_read_from_its_days_alone(tmp_path: Path) -> None:
    with Archive.opened(tmp_path) as archive:
        archive.add([*rows(0, 10), *rows(10, 20, day=1), *rows(20, 30, day=2)], up_to(30))
    start = datetime.fromtimestamp(START_MS / 1000, UTC)
    offsets = [
        row["offset"]
        for batch in batches(
            tmp_path, ["offset"], start + timedelta(days=1, milliseconds=15), start + timedelta(days=2)
        )
        for row in batch.to_pylist()
    ]
    assert offsets == [15, 16, 17, 18, 19]
    with pytest.raises(ConfigError, match=r"no verdicts of this period: it holds 2026-05-28 to 2026-05-30"):
        list(batches(tmp_path, ["offset"], start + timedelta(days=9)))


def test_what_is_no_archive_is_said_with_a_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no such folder: name the folder that `moderation archive` writes"):
        list(batches(tmp_path / "none"))
    with pytest.raises(ConfigError, match=r"no archive, as it has no archive\.json: name the folder"):
        list(batches(tmp_path))
    with Archive.opened(tmp_path) as archive:
        archive.add(rows(0, 5), up_to(5))
    (path,) = tmp_path.glob("day=*/*.parquet")
    path.write_bytes(b"PAR1 no")
    with pytest.raises(ConfigError, match=r"0\.parquet: not a file of an archive"):
        list(batches(tmp_path))
    (tmp_path / module.STATE).write_text(json.dumps({"format": 2}))
    with pytest.raises(ConfigError, match=r"archive\.json: format: .*: restore the folder from a copy"):
        list(batches(tmp_path))


def test_one_process_writes_at_a_time(tmp_path: Path) -> None:
    with (
        Archive.opened(tmp_path),
        pytest.raises(ConfigError, match="another process archives there"),
        Archive.opened(tmp_path),
    ):
        pass


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"file/archive.*: the archive is to be written there"):
        Archive.opened(tmp_path / "file" / "archive").__enter__()


def test_days_are_those_of_utc() -> None:
    found = by_day([*rows(0, 1), *rows(0, 1, day=1)])
    assert sorted(found) == [date(2026, 5, 28), date(2026, 5, 29)]
