"""Many posts, each with the verdict that a worker would publish, compared with their labels and written to a file."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import json_format

import moderation
from moderation import wire
from moderation.errors import ConfigError
from moderation.evaluation.judging import cuts_of, each
from moderation.evaluation.posts import importing, tables
from moderation.evaluation.posts.posts import WrongLineError, post_of
from moderation.evaluation.posts.tables import Row, Table
from moderation.evaluation.progress_file import ProgressFile
from moderation.evaluation.testing.expected import Expected, Miss
from moderation.moderator import Moderator
from moderation.policies import PolicySet, States
from moderation.policies.certificates import score_digest
from moderation.policies.mistakes import Kind, Mistake
from moderation.settings import MediaSettings, Settings
from moderation.types import Post
from moderation.v1.verdict_pb2 import MODE_SHADOW, STATUS_UNDETERMINED, Finding, Outcome, Status, Verdict

PICTURES = frozenset(
    {*(".jpg", ".jpeg", ".jfif", ".png", ".apng", ".gif", ".webp", ".avif", ".bmp", ".tif", ".tiff", ".heic")}
)
SHOWN = 300  # posts on a page


@dataclass(frozen=True, slots=True)
class Case:
    """A post of a file, and what its label says."""

    row: Row
    expected: Expected | None


@dataclass(frozen=True, slots=True)
class Judged:
    """A post of a file and its verdict."""

    row: Row
    expected: Expected | None
    verdict: Verdict

    @property
    def is_judged(self) -> bool:
        """Whether anything of the post was judged."""
        return bool(self.verdict.status != STATUS_UNDETERMINED)

    @property
    def miss(self) -> Miss:
        """How the verdict differs from the label; NONE also without a label."""
        return self.expected.miss(self.verdict) if self.expected else Miss.NONE

    @property
    def outcome(self) -> str:
        """ALLOW, REVIEW or REMOVE."""
        return Outcome.Name(self.verdict.outcome).removeprefix("OUTCOME_")

    @property
    def status(self) -> str:
        """FINAL, DEGRADED or UNDETERMINED."""
        return Status.Name(self.verdict.status).removeprefix("STATUS_")

    @property
    def finding(self) -> Finding | None:
        """The finding to look at: of a miss that of the label's policy, else the deciding one or the highest score."""
        name = (self.expected.policy if self.expected and self.miss else "") or self.verdict.deciding_policy
        named = [each for each in self.verdict.findings if each.policy_id == name]
        found = named or sorted(self.verdict.findings, key=lambda finding: -finding.probability)
        return found[0] if found else None

    @property
    def problems(self) -> tuple[str, ...]:
        """What was not judged, in the words of verdicts."""
        return tuple(" ".join(filter(None, (each.reason, each.path, each.detail))) for each in self.verdict.problems)


def pictures(folder: Path, media: MediaSettings) -> tuple[Table, int]:
    """A table with a post for each picture below a folder, by name, and the number of other files.

    Raises ConfigError if the folder has no picture.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder: --pictures names a folder of pictures")
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))
    rows: list[Row] = []
    mistakes: list[Mistake] = []
    folders: set[Path] = set()
    named = [path for path in files if path.suffix.lower() in PICTURES]
    for number, path in enumerate(named, 1):
        name = path.relative_to(folder).as_posix()
        members = {"post": {"images": [{"file": name}]}}
        try:
            post, found = post_of({"id": name, **members["post"]}, number, folder, media)
        except WrongLineError as mistake:
            mistakes.append(Mistake(Kind.ERROR, path, 0, str(mistake)))
            continue
        rows.append(Row(number, members, post))
        folders |= found
    if not named:
        raise ConfigError(f"{folder}: holds no picture ({', '.join(sorted(PICTURES))})")
    return Table(folder, tuple(rows), tuple(mistakes), (), frozenset(folders)), len(files) - len(named)


def question(policies: PolicySet, model_digest: str, settings: Settings) -> str:
    """A digest of all that a verdict depends on but for the post."""
    state = States(policies.policies, policies.certificates, model_digest).at(time.time()).text
    limits = settings.media.model_dump_json(exclude={"roots"})
    scores = [score_digest(policy, model_digest) for policy in policies.policies]
    cuts = cuts_of(settings.model)
    parts = [policies.digest, model_digest, *scores, state, cuts, limits, moderation.__version__]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


async def judge(
    cases: Sequence[Case], moderator: Moderator, kept: ProgressFile | None, step: Callable[[int], object]
) -> list[Judged]:
    """The cases with their verdicts, in their order. Those that are kept are not judged again. Raises ModerationError.

    A verdict is kept if the same post would get it again: not after an outage of the model or of a host of pictures.
    `step` is called with numbers of posts that are done.
    """

    async def verdict_of(post: Post) -> Verdict:
        if kept is not None and (known := kept.get(post)) is not None:
            return known
        verdict = await moderator.moderate(post)
        message = wire.verdict_message(verdict)
        if kept is not None and verdict.stands:  # another one may be better next time
            kept.add(post, message)
        return message

    verdicts = await each([case.row.post for case in cases], verdict_of, step)
    return [Judged(case.row, case.expected, verdict) for case, verdict in zip(cases, verdicts, strict=True)]


def to_show(judged: Iterable[Judged]) -> list[Judged]:
    """The posts for a page: misses first, then what was flagged or not judged, the highest scores first."""

    def rank(each: Judged) -> tuple[bool, bool, float]:
        score = each.finding.probability if each.finding else 0.0
        return not each.miss, each.is_judged and each.outcome == "ALLOW", -score

    return sorted(judged, key=rank)[:SHOWN]


def counts(judged: Sequence[Judged], policies: PolicySet) -> list[tuple[str, Counter[str]]]:
    """For each policy that was asked the number of findings by outcome, and under `-` of those without a score."""
    rows: dict[str, Counter[str]] = {policy.id: Counter() for policy in policies.policies if policy.asked}
    for post in judged:
        for finding in post.verdict.findings:
            name = Outcome.Name(finding.outcome).removeprefix("OUTCOME_") if finding.HasField("probability") else "-"
            rows[finding.policy_id][name] += 1
    return list(rows.items())


def described(judged: Sequence[Judged], table: Table, policies: PolicySet) -> dict[str, Any]:
    """All of it as JSON."""
    model = judged[0].verdict.model if judged else None
    labelled = [each for each in judged if each.expected]
    return {
        "source": str(table.path),
        "model": json_format.MessageToDict(model) if model else None,
        "policy_set": policies.digest,
        "outcomes": dict(Counter(each.outcome for each in judged)),
        "labelled": len(labelled),
        "misses": dict(Counter(str(each.miss) for each in labelled if each.miss)),
        "posts": [_described(each) for each in judged],
        "mistakes": [{"file": str(each.file), "line": each.line, "text": each.text} for each in table.mistakes],
    }


def _described(judged: Judged) -> dict[str, Any]:
    verdict = judged.verdict
    scores = {each.policy_id: each.probability if each.HasField("probability") else None for each in verdict.findings}
    return {
        "line": judged.row.line,
        "id": judged.row.post.id,
        "label": judged.row.label or None,
        "miss": str(judged.miss) or None,
        "outcome": judged.outcome,
        "status": judged.status,
        "deciding_policy": verdict.deciding_policy or None,
        "probabilities": scores,
        "shadow": [each.policy_id for each in verdict.findings if each.mode == MODE_SHADOW],
        "problems": list(judged.problems),
    }


def as_csv(judged: Sequence[Judged], policies: PolicySet, table: Table, out: Path) -> str:
    """A row for each post, which `policies import` and `classify --posts` read. Files are named from the folder of out.

    Rows that could not be read are in no row: the command names them.
    """
    asked = [policy.id for policy in policies.policies if policy.asked]
    folder = table.path if table.path.is_dir() else table.path.parent
    rows: list[Mapping[str, str]] = []
    for post in judged:
        scored = [finding for finding in post.verdict.findings if finding.HasField("probability")]
        rows.append(
            {
                **tables.flat(importing.moved(post.row.members, folder, out.parent)),
                "line": str(post.row.line),
                "id": post.row.post.id,
                "outcome": post.outcome,
                "status": post.status,
                "policy": post.verdict.deciding_policy,
                "miss": str(post.miss),
                "problems": "; ".join(post.problems),
                **{f"P {finding.policy_id}": f"{finding.probability:.6f}" for finding in scored},
            }
        )
    first = ("line", "outcome", "policy", "miss")
    own = [*first, "status", "problems", *(f"P {id}" for id in asked)]
    given = dict.fromkeys(column for row in rows for column in row if column not in own)
    return tables.csv_of([*first, *given, *own[len(first) :]], rows)
