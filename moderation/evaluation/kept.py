"""Answers that are kept between runs, so that a command asks the model about nothing twice.

The file lies in the user's cache folder. It holds no content: a key is a digest of the question's score digest and of
what the model is shown, and a row holds the model's answers, which no threshold moves. So a run that was interrupted
goes on where it was, and a change of thresholds asks no model. Answers that may be others later are not kept.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from moderation.evaluation.judging import cuts_of
from moderation.inference.scoring import Scored, Scorer
from moderation.models.contract import DeviceMemory
from moderation.policies import Policy, score_digest
from moderation.settings import ModelSettings
from moderation.types import (
    CUT,
    STANDING,
    Answer,
    Arrival,
    Content,
    Detail,
    ModelInfo,
    Outcome,
    Problem,
    Question,
    Reason,
    Score,
    YesNo,
)

MOST_ROWS = 200_000  # some 60 MB; of more, those that were not used for longest are deleted
LEFT_SHARE = 0.9  # of MOST_ROWS, after that
LARGE_BYTES = 256 << 10  # of pictures that are hashed on a thread
BUSY_S = 10.0  # another command may write
SCHEMA = """CREATE TABLE IF NOT EXISTS answers_1
            (key BLOB PRIMARY KEY, answers TEXT NOT NULL, used INTEGER NOT NULL) WITHOUT ROWID"""

Windows = tuple[tuple[Answer, ...], tuple[Problem, ...]]  # an answer for each window, and what the windows leave out


def default_path() -> Path:
    """The file in the user's cache folder."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "moderation" / "answers.sqlite"


class Answers:
    """The answers in a file. A file that cannot be used ends no command: nothing is kept then, and `lost` says why."""

    def __init__(self, path: Path, *, fresh: bool = False, most: int = MOST_ROWS) -> None:
        """fresh: what the file holds is not used; new answers take its place. most: rows."""
        self.path = path
        self.lost = ""  # why answers are not kept; empty: they are
        self.found = 0  # answers that were there
        self.asked = 0  # answers that the model was asked for
        self.added = 0  # of these, those that are there for the next run
        self._fresh, self._most = fresh, most
        self._database: sqlite3.Connection | None = None
        self._rows = 0

    def __enter__(self) -> Self:
        try:
            self._open()
        except sqlite3.OperationalError as error:  # no right, no space
            self._lose(error)
        except sqlite3.DatabaseError:  # it is no database: a cache may be deleted
            self._delete()
        except OSError as error:
            self._lose(error)
        return self

    def _open(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(self.path, timeout=BUSY_S, isolation_level=None)
        self.path.chmod(0o600)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = NORMAL")  # what is written outlives the process
        self._database.execute(SCHEMA)
        self._rows = self._database.execute("SELECT count(*) FROM answers_1").fetchone()[0]

    def _delete(self) -> None:
        self._close()
        try:
            for ending in ("", "-wal", "-shm"):
                self.path.with_name(self.path.name + ending).unlink(missing_ok=True)
            self._open()
        except (sqlite3.Error, OSError) as error:
            self._lose(error)

    def __exit__(self, *_: object) -> None:
        self._close()

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
        self._database = None

    def _lose(self, error: sqlite3.Error | OSError) -> None:
        name = error.strerror if isinstance(error, OSError) else str(error)
        self.lost = f"{self.path}: {(name or 'no reason given').lower()}"
        self._close()

    def get(self, key: bytes) -> Windows | None:
        """The answers of a key; None: there are none."""
        if self._database is None or self._fresh:
            return None
        try:
            row = self._database.execute("SELECT answers, used FROM answers_1 WHERE key = ?", (key,)).fetchone()
            if row is None:
                return None
            windows = _read(row[0])
            if row[1] != (today := _day()):
                self._database.execute("UPDATE answers_1 SET used = ? WHERE key = ?", (today, key))
        except sqlite3.Error as error:
            self._lose(error)
            return None
        except (ValueError, TypeError, KeyError):  # another version wrote it
            return None
        self.found += 1
        return windows

    def put(self, rows: Iterable[tuple[bytes, Windows]]) -> None:
        """Keeps the answers. They are there for the next run even if this process is killed."""
        written = [(key, _written(windows), _day()) for key, windows in rows]
        if self._database is None or not written:
            return
        try:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.executemany("INSERT OR REPLACE INTO answers_1 VALUES (?, ?, ?)", written)
            self._rows += len(written)
            if self._rows > self._most:
                self._shrink()
            self._database.execute("COMMIT")
        except sqlite3.Error as error:
            self._lose(error)
            return
        self.added += len(written)

    def _shrink(self) -> None:
        """Deletes the rows that were not used for longest."""
        if self._database is None:
            return
        self._rows = self._database.execute("SELECT count(*) FROM answers_1").fetchone()[0]
        if (many := self._rows - round(LEFT_SHARE * self._most)) > 0:
            oldest = "SELECT key FROM answers_1 ORDER BY used, key LIMIT ?"
            self._database.execute(f"DELETE FROM answers_1 WHERE key IN ({oldest})", (many,))  # noqa: S608  no input
            self._rows -= many


def _day() -> int:
    return int(time.time() // 86_400)


def _written(windows: Windows) -> str:
    answers, problems = windows
    said = [[a.probability, a.margin, a.mass] if isinstance(a, Score) else _plain(a) for a in answers]
    left_out = [[problem.reason, problem.path, problem.detail] for problem in problems]
    return json.dumps([said, left_out], separators=(",", ":"))


def _plain(answer: YesNo | Reason) -> bool | str:
    return answer.yes if isinstance(answer, YesNo) else answer.value


def _read(text: str) -> Windows:
    said, left_out = json.loads(text)
    answers = tuple(_answer(each) for each in said)
    problems = tuple(Problem(Reason(reason), path, detail and Detail(detail)) for reason, path, detail in left_out)
    return answers, problems


def _answer(said: list[float] | bool | str) -> Answer:
    if isinstance(said, list):
        return Score(*said)
    return YesNo(said) if isinstance(said, bool) else Reason(said)


class KeptScorer:
    """A scorer that asks another one only about what is not kept. The other one is started and ended elsewhere."""

    def __init__(self, scorer: Scorer, answers: Answers, policies: Iterable[Policy], settings: ModelSettings) -> None:
        """policies: those that are asked about. settings: of the model that the scorer has loaded."""
        self._scorer = scorer
        self._answers = answers
        # Under an alias, the model may be another one tomorrow under the same digest.
        self._keeps = not scorer.info.alias
        self._digests = {policy.id: score_digest(policy, scorer.info.digest) for policy in policies}
        self._model = json.dumps([settings.name, settings.url, cuts_of(settings)])

    async def score(
        self, content: Content, questions: Sequence[Question], arrival: Arrival | None = None
    ) -> Scored[Answer]:
        """As of a Scorer. Where all answers are kept, no time is spent on them."""
        if not self._keeps or not questions:
            return await self._scorer.score(content, questions, arrival)
        shown = await _shown(content)
        keys = [self._key(shown, question) for question in questions]
        kept = {key: windows for key in keys if (windows := self._answers.get(key)) is not None}
        missing = [place for place, key in enumerate(keys) if key not in kept]
        if not missing:
            if (together := _together([kept[key] for key in keys])) is not None:
                return together
            missing = list(range(len(questions)))
        self._answers.asked += len(missing)
        scored = await self._scorer.score(content, [questions[place] for place in missing], arrival)
        columns = list(zip(*scored.windows, strict=True))
        new = {keys[place]: (column, scored.problems) for place, column in zip(missing, columns, strict=False)}
        self._answers.put((key, windows) for key, windows in new.items() if _stays(windows))
        if len(missing) == len(questions):
            return scored
        whole = _together([new.get(key) or kept[key] for key in keys]) if len(new) == len(missing) else None
        # A setting of the model has changed what a window is: all are asked again.
        return whole or await self._scorer.score(content, questions, arrival)

    def _key(self, shown: bytes, question: Question) -> bytes:
        digest = self._digests[question.policy_id]
        return hashlib.sha256(f"{self._model}\0{question.policy_id}\0{digest}\0".encode() + shown).digest()

    @property
    def info(self) -> ModelInfo:
        """The model."""
        return self._scorer.info

    @property
    def strictest(self) -> Outcome:
        """As of the other scorer, and so all that follows."""
        return self._scorer.strictest

    @property
    def waiting(self) -> int:
        """Posts."""
        return self._scorer.waiting

    @property
    def waited(self) -> float:
        """Seconds."""
        return self._scorer.waited

    @property
    def paused(self) -> bool:
        """Whether the model is away."""
        return self._scorer.paused

    @property
    def patience_s(self) -> float:
        """Seconds."""
        return self._scorer.patience_s

    @property
    def pictures(self) -> tuple[int, int]:
        """Features that were needed, and those from the feature cache."""
        return self._scorer.pictures

    def device_memory(self) -> DeviceMemory | None:
        """Of the device."""
        return self._scorer.device_memory()

    def on_change(self, changed: Callable[[], None]) -> None:
        """Calls `changed` whenever `paused` has changed."""
        self._scorer.on_change(changed)

    async def warm_up(self, questions: Sequence[Question] = ()) -> None:
        """Prepares the model."""
        await self._scorer.warm_up(questions)

    async def watch(self) -> None:
        """Runs until the model is another one."""
        await self._scorer.watch()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Leaves the other scorer as it is."""


@contextmanager
def keeping(
    scorer: Scorer, policies: Iterable[Policy], settings: ModelSettings, *, fresh: bool = False
) -> Iterator[tuple[KeptScorer, Answers]]:
    """Yields a scorer that keeps answers in the user's cache folder, and these answers."""
    with Answers(default_path(), fresh=fresh) as answers:
        yield KeptScorer(scorer, answers, policies, settings), answers


def _stays(windows: Windows) -> bool:
    """Whether the model would say so again."""
    answers, problems = windows
    said = all(answer in STANDING for answer in answers if isinstance(answer, Reason))
    return said and all(problem.reason in CUT for problem in problems)


def _together(columns: Sequence[Windows]) -> Scored[Answer] | None:
    """The answers to all questions; None: they are not on the same windows."""
    if len({len(answers) for answers, _ in columns}) != 1:
        return None
    windows = tuple(zip(*(answers for answers, _ in columns), strict=True))
    problems: Mapping[Problem, None] = dict.fromkeys(problem for _, problems in columns for problem in problems)
    return Scored(windows, 0.0, 0.0, 0.0, tuple(problems))


async def _shown(content: Content) -> bytes:
    """The digest of what the model is shown: the text, and the pictures as they were decoded."""
    size = sum(3 * picture.width * picture.height for picture in content.pictures)
    return await asyncio.to_thread(_digest, content) if size > LARGE_BYTES else _digest(content)


def _digest(content: Content) -> bytes:
    whole = hashlib.sha256(hashlib.sha256(content.text.encode("utf-8", "surrogatepass")).digest())
    for picture in content.pictures:
        whole.update(f"{picture.mode} {picture.width} {picture.height} ".encode())
        whole.update(hashlib.sha256(picture.tobytes()).digest())
    return whole.digest()
