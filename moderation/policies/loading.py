"""Reads policies from a folder of YAML files. Each mistake is reported with file, line and key.

folder.py says which files are policies, syntax.py reads YAML, and mistakes.py puts what pydantic says into words.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import ValidationError

from moderation.errors import ConfigError, cause_of
from moderation.policies import mistakes as wording
from moderation.policies import syntax
from moderation.policies.folder import SUFFIX, policy_files
from moderation.policies.mistakes import Kind, Mistake
from moderation.policies.schema import Policy
from moderation.policies.syntax import Document


@dataclass(frozen=True, slots=True)
class Read:
    """A policy with the document that it was read from."""

    policy: Policy
    document: Document


def load_policies(folder: Path) -> list[Policy]:
    """The policies in a folder, in the order of file names. Raises ConfigError with one line for each error."""
    read, mistakes = read_folder(folder)
    if errors := [str(mistake) for mistake in mistakes if mistake.kind is Kind.ERROR]:
        raise ConfigError("\n".join(errors))
    return [file.policy for file in read]


def load_policy(path: Path) -> Policy:
    """The policy in a file. Raises ConfigError with a line for each mistake."""
    read, mistakes = read_file(path)
    if read is None or mistakes:
        raise ConfigError("\n".join(map(str, mistakes)))
    return read.policy


def read_folder(folder: Path) -> tuple[list[Read], list[Mistake]]:
    """The policies in a folder, in the order of file names, and the mistakes in its files and their names."""
    if not folder.is_dir():
        problem = "is a file: name its folder" if folder.exists() else "no such folder"
        text = f"{problem}; MODERATION_POLICIES names the folder of your policies"
        return [], [Mistake(Kind.ERROR, folder, 0, text)]
    try:
        files, mistakes = policy_files(folder)
    except OSError as error:
        return [], [Mistake(Kind.ERROR, folder, 0, f"not readable: {cause_of(error)}")]
    if not files and not any(mistake.kind is Kind.ERROR for mistake in mistakes):
        text = f"holds no policy (*{SUFFIX}); `policies/` of the project is one to start from"
        mistakes.append(Mistake(Kind.ERROR, folder, 0, text))
    policies: list[Read] = []
    for path in files:
        read, found = read_file(path)
        policies += [read] if read else []
        mistakes += found
    named = {folder / read.policy.golden for read in policies if read.policy.golden}
    mistakes = [mistake for mistake in mistakes if mistake.kind is Kind.ERROR or mistake.file not in named]
    return policies, mistakes


def read_file(path: Path) -> tuple[Read | None, Sequence[Mistake]]:
    """The policy in a file, None if it has an error; and its errors."""
    document = syntax.parse(path)
    if isinstance(document, Mistake):
        return None, [document]
    try:
        mistakes = [
            Mistake(Kind.ERROR, path, line, f"{key}: given twice, first in line {first}; delete one")
            for line, key, first in syntax.given_twice(document.node)
        ]
    except RecursionError:
        return None, [Mistake(Kind.ERROR, path, 1, "an alias (*) in it contains itself: write its text out")]
    mistakes += (*wording.of_version(path, document.node), *wording.of_names(path, document.node))
    try:
        policy = Policy.model_validate(document.value())
    except ValidationError as error:
        mistakes += wording.of_validation(document.path, document.node, error)
    except (yaml.YAMLError, ValueError) as error:  # an unknown tag, a key that is not a scalar, an invalid date
        mistakes.append(syntax.of_value(document, error))
    else:
        if not mistakes:
            return Read(policy, document), []
    return None, mistakes
