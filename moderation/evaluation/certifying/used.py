"""Which labels a certificate has used up: rows of the golden set with the split `cert` and its id.

A group counts as used where the same seed has drawn it, whose labels the author knows. A draw with another seed, or for
another score, is independent of what the author knows. A row does not name the score, so the seed decides.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from moderation.errors import ConfigError, cause_of
from moderation.evaluation.certifying.certifying import Labelled
from moderation.evaluation.files import replaced
from moderation.evaluation.posts import golden
from moderation.evaluation.posts.golden import GoldenSet
from moderation.evaluation.samples.labels import Settled
from moderation.evaluation.samples.samples import Item
from moderation.policies import Certificate, Policy
from moderation.settings import MediaSettings
from moderation.types import Image, Post


def path_of(policy: Policy, folder: Path) -> Path:
    """The file of a policy's golden set, which need not exist."""
    return folder / (policy.golden or f"{policy.id}{golden.SUFFIX}")


def read(path: Path, policy: Policy, media: MediaSettings) -> GoldenSet | None:
    """The golden set, if there is one. Raises ConfigError."""
    return golden.read(path, policy, media) if path.is_file() else None


def check(rows: GoldenSet | None, samples: Sequence[Labelled], own: str) -> None:
    """Raises ConfigError, with a row of the golden set, where another certificate than `own` has used a label."""
    drawn = {(sample.settlement.sample.seed, group) for sample in samples for group in sample.used}
    twice = [
        row
        for row in (rows.posts if rows else ())
        if row.drawn and (row.drawn.seed, row.drawn.group) in drawn and row.certificate != own
    ]
    if rows and twice:
        first, more = twice[0], f" and of {len(twice) - 1:,} rows more" if len(twice) > 1 else ""
        raise ConfigError(
            f"{rows.path}:{first.line}: certificate: the certificate {first.certificate} has used the label of this "
            f"row{more}, and a label counts for one certificate: draw another sample, with another --seed"
        )


@dataclass(frozen=True, slots=True)
class Recorded:
    """How many rows of a golden set were written, and how many labelled posts no row can hold."""

    written: int
    left_out: int


def record(
    path: Path, certificate: Certificate, samples: Sequence[Labelled], policy: Policy, media: MediaSettings
) -> Recorded:
    """Appends the labelled groups to a golden set, which may be a new file.

    What was written before for this certificate is not written again. The file changes as a whole or not at all. Raises
    ConfigError.
    """
    try:
        before = path.read_bytes() if path.is_file() else b""
        written = before if not before or before.endswith(b"\n") else before + b"\n"
        done, ids = _known(written, certificate.id)
        lines = [line for sample in samples for line in _lines(sample, certificate.id, done, ids, path.parent)]
        rows = [line for line in lines if line]
        sound = _sound(rows, path, policy, media) if rows else []
        if sound:
            replaced(path, written + b"".join(sound))
    except OSError as error:
        raise ConfigError(f"{path}: not written: {cause_of(error)}") from None
    return Recorded(len(sound), len(lines) - len(sound))


def _sound(lines: Sequence[bytes], path: Path, policy: Policy, media: MediaSettings) -> list[bytes]:
    """The lines that a golden set can hold. A post of a topic may have what no golden set takes."""
    alone = path.with_name(f".{path.name}.rows")
    try:
        alone.write_bytes(b"".join(lines))
        wrong = {mistake.line for mistake in golden.mistakes_of(alone, policy, media)}
    finally:
        alone.unlink(missing_ok=True)
    return [line for number, line in enumerate(lines, 1) if number not in wrong]


def _known(data: bytes, certificate: str) -> tuple[set[tuple[int, str]], set[str]]:
    """What is written for a certificate, by seed and group, and the ids of all posts. The file was read before."""
    done, ids = set(), set()
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), 1):
        if line.strip():
            row = json.loads(line)
            ids.add(row["post"].get("id") or f"line-{number}")
            if row.get("certificate") == certificate and "drawn" in row:
                done.add((row["drawn"]["seed"], row["drawn"]["group"]))
    return done, ids


def _lines(
    sample: Labelled, certificate: str, done: set[tuple[int, str]], ids: set[str], folder: Path
) -> Iterator[bytes]:
    """A row for each label that is not done yet; empty where no row can hold the post."""
    settlement = sample.settlement
    seed = settlement.sample.seed
    for item, settled, clause in zip(settlement.items, settlement.labels, settlement.clauses, strict=True):
        label = _label(settled, clause)
        if label is None or (seed, item.group) in done:
            continue
        id = item.post.id if item.post.id and item.post.id not in ids else f"{certificate}-{item.number}"
        members = _members(item, id, folder)
        done.add((seed, item.group))
        if not members:
            yield b""
            continue
        ids.add(id)
        row = {
            "post": members,
            "label": label,
            "source": "qa",
            "split": "cert",
            "certificate": certificate,
            "drawn": {"seed": seed, "group": item.group},
        }
        yield json.dumps(row, ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def _label(settled: Settled, clause: str) -> str | None:
    """The label of a golden set; None: nobody knows it."""
    if settled is Settled.VIOLATES:
        return clause or golden.VIOLATES
    return clause or golden.ALLOWED if settled is Settled.ALLOWED else None


def _members(item: Item, id: str, folder: Path) -> dict[str, Any]:
    """The post as a golden set holds it, without images that cannot be read; empty: nothing is left."""
    post: Post = item.post
    images = [_image(image, folder) for image in post.images if image.problem is None]
    texts = {name: getattr(post, name) for name in ("text", "tenant", "language", "surface") if getattr(post, name)}
    if not images and not post.text.strip():
        return {}
    return {"id": id, **texts, **({"images": images} if images else {})}


def _image(image: Image, folder: Path) -> dict[str, str]:
    alt = {"alt": image.alt} if image.alt else {}
    if image.data is not None:
        return {"data": base64.b64encode(image.data).decode(), **alt}
    uri = image.uri or ""
    if uri.startswith("file:"):
        return {"file": os.path.relpath(unquote(urlsplit(uri).path), folder.resolve()), **alt}
    return {"uri": uri, **alt}
