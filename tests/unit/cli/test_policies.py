"""`moderation policies check` prints a set as a table, with its number and digest."""

from __future__ import annotations

from pathlib import Path

import pytest

from moderation.cli.policies import check
from moderation.policies import PolicySet

POLICY = """
id: {id}
version: 1
title: Lakes
question: Does this post mention a lake?
violates: [{{id: L1, text: mentions a lake}}]
thresholds: {{review: 0.5, remove: 0.9}}
"""


@pytest.mark.parametrize(("ids", "count"), [(("lakes",), "1 policy"), (("lakes", "ponds"), "2 policies")])
def test_the_policies_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ids: tuple[str, ...], count: str
) -> None:
    for id in ids:
        (tmp_path / f"{id}.yaml").write_text(POLICY.format(id=id))
    check(tmp_path)
    *_, last = capsys.readouterr().out.splitlines()
    assert last == f"{count}, digest {PolicySet.load(tmp_path).digest}"
