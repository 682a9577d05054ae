"""Small checkpoints in the published layouts, made from a seed in a few seconds, without a network.

Each has a tokenizer of its own in its family's layout, a small tower and two small decoder layers. The weights are
random, so its verdicts mean nothing. But the verdicts depend on post and policy, the answer tokens hold nearly all of
the probability, and all code that runs a published checkpoint can run this one.
"""

from __future__ import annotations

import importlib
import re
import shutil
import tempfile
from pathlib import Path

from moderation.errors import ConfigError

VERSION = "seeded 3\n"  # raise it with any change of `seeds`: older folders are then written again
MARK = "OK"
# Modules of moderation.dev.seeds, each with `write(folder)`.
FAMILIES = ("phi3", "tinyllava", "tinyllava_legacy", "tinyllava_v1", "h2ovl", "tinygptv")

CARD = """A small checkpoint in the layout of {family}, its weights drawn from a seed.

Its verdicts mean nothing. But they depend on post and policy, and all code that runs a published checkpoint of this
layout runs this one.
"""


def seeded(folder: Path, family: str = "phi3") -> Path:
    """The folder with the checkpoint in it: written on the first call, unchanged on later calls.

    family: one of FAMILIES. The checkpoint is written to another folder, which is then renamed: a killed run leaves
    nothing that looks complete. Raises ConfigError where something else lies, or nothing can be written.
    """
    if family not in FAMILIES:
        raise ConfigError(f"{family}: not a family; there are {', '.join(FAMILIES)}")
    if _whole(folder, family):
        return folder
    if not _replaceable(folder, family):
        raise ConfigError(f"{folder}: exists, and is no {family} seeded before; name a folder that does not exist")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise ConfigError(f"{folder}: cannot be written ({error.strerror})") from None
    try:
        _write(draft, family)
        draft.chmod(0o755)  # mkdtemp's is for one user
        if folder.exists():
            folder.rename(draft / "replaced")
        draft.rename(folder)
    except OSError:
        if not _whole(folder, family):  # else another process was faster
            raise
    finally:
        shutil.rmtree(draft, ignore_errors=True)
        shutil.rmtree(folder / "replaced", ignore_errors=True)
    return folder


def _whole(folder: Path, family: str) -> bool:
    try:
        return (folder / MARK).read_text() == f"{family} {VERSION}"
    except OSError:
        return False


def _replaceable(folder: Path, family: str) -> bool:
    """Whether nothing that a user keeps is lost: nothing, an empty folder, or an older checkpoint of this family."""
    try:
        mark = (folder / MARK).read_text()
    except OSError:
        return not folder.exists() or (folder.is_dir() and not any(folder.iterdir()))
    return re.fullmatch(rf"({family} )?seeded \d+\n", mark) is not None


def _write(folder: Path, family: str) -> None:
    importlib.import_module(f"moderation.dev.seeds.{family}").write(folder)
    (folder / MARK).write_text(f"{family} {VERSION}")
    (folder / "README.md").write_text(CARD.format(family=family))
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
