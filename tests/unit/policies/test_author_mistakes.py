"""Mistakes that authors make are found: each is an error or a warning, with file, line and what to write."""

from __future__ import annotations

from pathlib import Path

import pytest

from moderation.errors import ConfigError
from moderation.policies import Checked, Kind, PolicySet, check
from tests.support import author_certificates, author_files, author_prose, author_values
from tests.support.author_mistakes import SOUND, Row

ROWS = [*author_files.ROWS, *author_values.ROWS, *author_prose.ROWS, *author_certificates.CERTIFICATES]
SOUND_ROWS = [
    *author_files.COMPANIONS,
    *author_values.NO_MISTAKES,
    *author_prose.NO_MISTAKES,
    *author_certificates.SOUND_CERTIFICATES,
]


def written(row: Row, tmp_path: Path) -> Path:
    """The folder of a row."""
    folder = tmp_path / "set"
    folder.mkdir()
    for name, content in ({"lakes.yaml": SOUND} | dict(row.files)).items():
        path = folder / name
        if name.endswith("/"):
            path.mkdir()
        elif content is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for name, target in row.links.items():
        (folder / name).symlink_to(target)
    return folder


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_a_mistake_has_file_line_and_what_to_write_and_only_an_error_keeps_roles_from_starting(
    row: Row, tmp_path: Path
) -> None:
    folder = written(row, tmp_path)
    checked = check(folder)
    assert [str(mistake.kind) for mistake in checked.mistakes] == [row.kind], listed(checked)
    (mistake,) = checked.mistakes
    name, _, line = row.at.rpartition(":")
    assert (mistake.file, mistake.line) == (folder / name, int(line)), mistake
    text = mistake.text
    for words in row.says:
        assert words in text, mistake
        text = text.partition(words)[2]
    if row.kind == Kind.WARNING:
        assert PolicySet.load(folder).policies
        return
    with pytest.raises(ConfigError) as caught:
        PolicySet.load(folder)
    assert row.says[-1] in str(caught.value)


@pytest.mark.parametrize("row", SOUND_ROWS, ids=lambda row: row.name)
def test_what_is_no_mistake_is_silent(row: Row, tmp_path: Path) -> None:
    checked = check(written(row, tmp_path))
    assert not checked.mistakes, listed(checked)
    assert checked.policies


def test_the_table_is_long_and_names_each_mistake_once() -> None:
    names = [row.name for row in (*ROWS, *SOUND_ROWS)]
    assert len(ROWS) >= 165
    assert len(set(names)) == len(names)


def listed(checked: Checked) -> str:
    return "\n".join(map(str, checked.mistakes)) or "silent"
