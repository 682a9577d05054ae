"""What authors may not have meant in a set of policies: copies, surfaces in two spellings, limits without effect,
versions that were not raised.
"""

from __future__ import annotations

import difflib
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path

import yaml

from moderation.policies.folder import SUFFIX
from moderation.policies.loading import Read
from moderation.policies.mistakes import Kind, Location, Mistake, located
from moderation.policies.prose import plain
from moderation.policies.schema import Policy, folded

GIT_S = 10  # seconds for a git command


def warnings(read: Sequence[Read], *, is_whole: bool) -> Iterator[Mistake]:
    """What is odd about policies beside each other. Those that the model is not asked about do not count.

    is_whole: whether every policy of the set could be read.
    """
    asked = [file for file in read if file.policy.asked]
    yield from _copies(asked)
    yield from _spellings(asked)
    if is_whole:
        yield from _without_effect(asked)


def _copies(read: Sequence[Read]) -> Iterator[Mistake]:
    for place, file in enumerate(read):
        for other in read[:place]:
            policy, earlier = file.policy, other.policy
            if policy.status is not earlier.status or policy.applies_to != earlier.applies_to:
                continue  # other posts, or other thresholds in shadow
            if _words(policy) == _words(earlier):
                yield _warning(file, ("question",), f"this is a copy of {earlier.id}: write its own text, or delete it")
            elif plain(policy.question) == plain(earlier.question):
                yield _warning(file, ("question",), f"{earlier.id} asks the same: ask one question in one policy")
            elif plain(policy.title) == plain(earlier.title):
                yield _warning(file, ("title",), f"{earlier.id} has the same title: give each its own")


def _words(policy: Policy) -> object:
    return plain(policy.question), {plain(clause.text) for clause in policy.violates}


def _spellings(read: Sequence[Read]) -> Iterator[Mistake]:
    """Surfaces that are probably two spellings of one."""
    seen: dict[str, str] = {}  # the policy that names each first
    for file in read:
        for place, surface in enumerate(file.policy.applies_to.surfaces):
            name = folded(surface)
            if surface == "*" or name in seen:
                continue
            alike = next((other for other in seen if _is_alike(name, other)), "")
            if alike:
                problem = (
                    f"{surface} looks like {alike} in {seen[alike]}: write a surface as the platform does, everywhere"
                )
                yield _warning(file, ("applies_to", "surfaces", place), problem)
            seen[name] = file.policy.id


def _is_alike(one: str, other: str) -> bool:
    bare, other_bare = (re.sub(r"[\W_]+", "", name).removesuffix("s") for name in (one, other))
    if bare == other_bare:
        return True
    words, other_words = (re.findall(r"[^\W\d_]{3,}", name) for name in (one, other))
    if words == other_words or one[0] != other[0] or min(len(bare), len(other_bare)) < 5:
        return False  # they differ in a number or a short code, as listing-us and listing-uk, or are two words
    return difflib.SequenceMatcher(None, bare, other_bare).ratio() >= 0.86


def _without_effect(read: Sequence[Read]) -> Iterator[Mistake]:
    """Limits to surfaces that exclude no post, because the set knows no other surface."""
    known = {name for file in read for name in file.policy.applies_to.folded_surfaces}
    for file in read:
        if (own := file.policy.applies_to.folded_surfaces) and own == known:
            yield _warning(
                file,
                ("applies_to", "surfaces"),
                "this excludes no post: a surface that no policy names excludes nothing, and no other policy names "
                "another; delete surfaces, or name the other surfaces in the policies that are for them",
            )


def unraised(read: Sequence[Read], folder: Path, against: Path | None) -> Iterator[Mistake]:
    """Policies that changed while their version did not. against: the set as it was; None: as git has it."""
    if against is not None and not against.is_dir():
        yield Mistake(Kind.ERROR, against, 0, "no such folder; --against names a folder with the policies as they were")
        return
    before = dict(_before(folder, against))
    place = "the last commit" if against is None else str(against)
    for name, was in before.items():
        if was.asked and not (folder / name).exists():
            problem = (
                f"{was.id} was {was.status} in {place} and is gone: put it back, with status: retired if it is over"
            )
            yield Mistake(Kind.WARNING, folder / name, 1, problem)
    for file in read:
        was, now = before.get(file.document.path.name, file.policy), file.policy
        if not (was.asked or now.asked):
            continue
        if now.version < was.version:
            yield _warning(file, ("version",), f"{now.version} is lower than in {place}: write {was.version + 1}")
        elif now.version == was.version and (changed := _changed(was, now)):
            problem = f"{', '.join(changed)} changed since {place}, and the version did not: write {was.version + 1}"
            yield _warning(file, ("version",), problem)


def _changed(was: Policy, now: Policy) -> list[str]:
    """The keys that decide an outcome and differ."""
    keys = ("title", "status", "severity", "applies_to", "question", "definitions", "violates", "allows", "examples")
    return [key for key in (*keys, "thresholds", "on_error") if getattr(was, key) != getattr(now, key)]


def _before(folder: Path, against: Path | None) -> Iterator[tuple[str, Policy]]:
    """The policies as they were, with the names of their files: of git, those that changed. None that was broken."""
    if against is not None:
        texts = {path.name: path.read_bytes() for path in sorted(against.glob(f"[!.]*{SUFFIX}")) if path.is_file()}
    else:
        changed = _git(folder, "diff", "--name-only", "-z", "--relative", "HEAD", "--", ".") or b""
        names = [name for name in changed.decode(errors="replace").split("\0") if name.endswith(SUFFIX)]
        texts = {name: _git(folder, "show", f"HEAD:./{name}") or b"" for name in names if "/" not in name}
    for name, text in texts.items():
        with suppress(yaml.YAMLError, ValueError, RecursionError):  # what was broken was no policy
            yield name, Policy.model_validate(yaml.safe_load(text))


def _git(folder: Path, *arguments: str) -> bytes | None:
    """What git prints; None without git, outside of a checkout, or where it fails."""
    git = shutil.which("git")
    if git is None:
        return None
    try:
        done = subprocess.run(  # noqa: S603  no shell; the names are those of files
            [git, "-C", str(folder), *arguments], capture_output=True, timeout=GIT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def _warning(file: Read, location: Location, problem: str) -> Mistake:
    return located(file.document.path, file.document.node, location, problem, kind=Kind.WARNING)
