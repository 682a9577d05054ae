"""Which files of a folder are policies. A file that looks like a policy and is not read is a mistake.

A policy is `<id>.yaml`, directly in the folder. Known companions lie beside it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import yaml

from moderation.policies.mistakes import Kind, Mistake

SUFFIX = ".yaml"
KUSTOMIZATION = ("kustomization.yaml", "kustomization.yml", "kustomization")
COMPANION = re.compile(
    r"(README|LICEN[SC]E|NOTICE|CHANGELOG|CONTRIBUTING|CODEOWNERS|OWNERS|MAINTAINERS|Makefile)(\.(md|txt|rst))?"
    r"|.+\.schema\.json|Thumbs\.db|desktop\.ini",
    re.IGNORECASE,
)
GOLDEN, CERTIFICATE = BESIDE = (".golden.jsonl", ".certificate.json")  # behind the id of a policy
COPY = re.compile(r"~$|^#.*#$|\.(bak|backup|old|orig|rej|save|tmp|disabled|off|swp)$", re.IGNORECASE)
KEY = re.compile(rb"""(?:^|[{,])\s*["']?(question|violates|thresholds|applies_to)["']?\s*:""", re.MULTILINE)
MOST_READ = 1 << 16  # bytes of a file that is looked at
DEEPEST, MOST_FILES = 3, 1_000  # of subfolders: a folder that is none of policies is not walked through


def policy_files(folder: Path) -> tuple[list[Path], list[Mistake]]:
    """The files that are read as policies, by name, and what is wrong with the others.

    Raises OSError when the folder cannot be listed.
    """
    files: list[Path] = []
    mistakes: list[Mistake] = []
    paths = sorted(folder.iterdir())
    for path in paths:
        name = path.name
        if name.lower() in KUSTOMIZATION:
            continue
        if path.is_dir():
            mistakes += _of_folder(path, folder)
        elif name.startswith("."):
            mistakes += _of_hidden(path)
        elif path.suffix == SUFFIX:
            files.append(path)
        else:
            mistakes += _of_file(path)
    ids = {path.stem for path in files}
    mistakes += [mistake for path in paths for mistake in _without_policy(path, ids)]
    return files, mistakes


def _of_file(path: Path) -> Iterator[Mistake]:
    name = path.name
    if COMPANION.fullmatch(name) or name.endswith(BESIDE):
        return
    if COPY.search(name):
        yield Mistake(
            Kind.WARNING, path, 1, f"not read: this looks like a copy of a policy; delete it, or name it {_named(path)}"
        )
    elif path.suffix.lower() in (".yml", SUFFIX) or looks_like_policy(path):
        yield Mistake(
            Kind.ERROR, path, 1, f"not read, because a policy's file ends in {SUFFIX}: name it {_named(path)}"
        )
    else:
        text = f"not read, because a policy's file ends in {SUFFIX}, and it belongs to none: move it elsewhere"
        yield Mistake(Kind.WARNING, path, 1, text)


def _of_hidden(path: Path) -> Iterator[Mistake]:
    if path.suffix != SUFFIX:
        return
    if path.name.startswith("._"):
        yield Mistake(Kind.WARNING, path, 1, "not read: macOS keeps properties of another file in it; delete it")
    elif path.name.startswith(".#"):
        yield Mistake(Kind.WARNING, path, 1, "not read: Emacs locks a file with it that has changes; save that file")
    elif looks_like_policy(path):
        name = _named(path)
        yield Mistake(Kind.ERROR, path, 1, f"not read, because its name begins with a full stop: name it {name}")


def _of_folder(path: Path, folder: Path) -> Iterator[Mistake]:
    """Files of a subfolder that look like policies. A subfolder with a kustomization is a set of its own."""
    if path.name.startswith("."):
        return
    if path.suffix == SUFFIX:
        yield Mistake(Kind.ERROR, path, 1, "this is a folder: a policy is a file")
    endings = (SUFFIX, ".yml", ".json", ".txt")
    files = [file for file in _walk(path) if file.suffix.lower() in endings and looks_like_policy(file)]
    if files:
        kind = "linked folder" if path.is_symlink() else "subfolder"
        others = f", as {len(files) - 1} more" if len(files) > 1 else ""
        text = (
            f"not read, because it lies in a {kind}{others}: move it to {folder}; a set of its own has a Kustomization"
        )
        yield Mistake(Kind.ERROR, files[0], 1, text)


def _walk(top: Path) -> Iterator[Path]:
    seen = 0
    for place, folders, names in os.walk(top):
        depth = len(Path(place).relative_to(top).parts)
        if any(name.lower() in KUSTOMIZATION for name in names):
            folders.clear()
            continue
        folders[:] = sorted(name for name in folders if not name.startswith(".") and depth < DEEPEST - 1)
        for name in sorted(names):
            seen += 1
            if seen > MOST_FILES:
                return
            if not name.startswith("."):
                yield Path(place) / name


def _without_policy(path: Path, ids: set[str]) -> Iterator[Mistake]:
    for ending in BESIDE:
        stem = path.name.removesuffix(ending)
        if path.name.endswith(ending) and stem not in ids:
            yield Mistake(
                Kind.WARNING, path, 1, f"there is no policy {stem}{SUFFIX} beside it: rename it, or delete it"
            )


def undeployed(folder: Path, policies: Sequence[Path]) -> Iterator[Mistake]:
    """What the kustomization of their folder should list and does not, where it makes a ConfigMap of files.

    It should list policies and their certificates, and no golden set: roles read none, and a ConfigMap has little room.
    """
    path = next((path for path in sorted(folder.iterdir()) if path.name.lower() in KUSTOMIZATION), None)
    try:
        content = yaml.safe_load(path.read_bytes()) if path else None
        maps = content["configMapGenerator"] if isinstance(content, dict) else []
        listed = {str(file).rpartition("=")[2] for entry in maps for file in entry.get("files", ())}
    except (OSError, ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        return  # kustomize says what is wrong with it
    if path and any(name.endswith(SUFFIX) for name in listed):
        beside = [policy.with_name(f"{policy.stem}{CERTIFICATE}") for policy in policies]
        for file in [*policies, *(certificate for certificate in beside if certificate.exists())]:
            if file.name not in listed:
                text = f"{path.name} does not list it, so it would not be deployed: add `- {file.name}` to its files"
                yield Mistake(Kind.WARNING, file, 1, text)
        for name in sorted(listed):
            if name.endswith(GOLDEN):
                text = f"it lists {name}, and no role reads a golden set: delete the line"
                yield Mistake(Kind.WARNING, path, _line_with(path, name), text)


def _line_with(path: Path, name: str) -> int:
    """The first line that has the name, from 1."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((number for number, line in enumerate(lines, 1) if name in line), 1)


def looks_like_policy(path: Path) -> bool:
    """Whether a file has two keys of a policy, in whatever encoding."""
    if not path.is_file():
        return False  # a pipe would keep its reader waiting
    try:
        with path.open("rb") as file:
            data = file.read(MOST_READ).replace(b"\0", b"")
    except OSError:
        return False
    return len({match[1] for match in KEY.finditer(data)}) > 1


def _named(path: Path) -> str:
    """A name under which the file would be read."""
    stem = path.name.lower().strip(".#~")
    while (shorter := re.sub(r"\.[a-z0-9]{1,8}$", "", stem)) != stem:
        stem = shorter
    return f"{re.sub(r'[^a-z0-9]+', '-', stem).strip('-') or 'ID'}{SUFFIX}"
