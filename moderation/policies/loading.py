"""Reads policies from a folder of YAML files. Each mistake is reported with file, line and key.

mistakes.py puts what pydantic says into words, with the line of the YAML document that the value is on.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import yaml
from pydantic import ValidationError

from moderation.errors import ConfigError
from moderation.policies import mistakes as wording
from moderation.policies.schema import Policy

SUFFIX = ".yaml"


def load_policies(folder: Path) -> list[Policy]:
    """The policies in a folder, in the order of file names. Raises ConfigError with one line for each mistake."""
    if not folder.is_dir():
        problem = "is a file: name its folder" if folder.exists() else "no such folder"
        raise ConfigError(f"{folder}: {problem}; MODERATION_POLICIES names the folder of your policies")
    misnamed = sorted(folder.glob("*.yml"))
    files = sorted(folder.glob(f"*{SUFFIX}"))
    mistakes = [f"{path}:1: rename it to {SUFFIX}, or it would not be read" for path in misnamed]
    if not files and not misnamed:
        raise ConfigError(f"{folder}: holds no policy (*{SUFFIX}); `policies/` of the project is one to start from")
    policies: list[Policy] = []
    for path in files:
        try:
            policies.append(load_policy(path))
        except ConfigError as error:
            mistakes.append(str(error))
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return policies


def load_policy(path: Path) -> Policy:
    """The policy in a file. Raises ConfigError with a line for each mistake."""
    try:
        node = yaml.compose(path.read_bytes().decode("utf-8"), Loader=yaml.SafeLoader)
    except (yaml.YAMLError, UnicodeDecodeError, OSError) as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = getattr(error, "problem", None) or getattr(error, "strerror", None) or "not UTF-8"
        raise ConfigError(f"{path}:{line}: not readable as YAML: {problem}") from None
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path}:1: a policy is a mapping of keys to values")
    try:
        mistakes = [f"{path}:{line}: {key}: given twice" for line, key in _given_twice(node)]
    except RecursionError:
        raise ConfigError(f"{path}:1: an alias (*) in it contains itself") from None
    mistakes += [
        f"{path}:{key.start_mark.line + 1}: id: must be the file's name, {path.stem}"
        for key, value in node.value
        if key.value == "id" and value.value != path.stem
    ]
    try:
        policy = Policy.model_validate(yaml.SafeLoader("").construct_document(node))
    except ValidationError as error:
        mistakes += wording.of_validation(path, node, error)
    except (yaml.YAMLError, ValueError) as error:  # an unknown tag, a key that is not a scalar, an invalid date
        mistakes.append(f"{path}:1: not readable as YAML: {getattr(error, 'problem', None) or 'unknown construct'}")
    else:
        if policy.golden and not (path.parent / policy.golden).is_file():
            mistakes.append(wording.located(path, node, ("golden",), "there is no such file beside the policy"))
    if mistakes:
        raise ConfigError("\n".join(mistakes))
    return policy


def _given_twice(node: yaml.Node) -> Iterator[tuple[int, str]]:
    """Line and name of each key that is given twice: YAML would silently keep the last one, and weaken a policy."""
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            yield from _given_twice(item)
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in seen:
                    yield key.start_mark.line + 1, str(key.value)
                seen.add(key.value)
            yield from _given_twice(value)
