"""What `policies diff` says of two versions before it asks the model. The rest: tests/integration/evaluation."""

from __future__ import annotations

from typing import Any

import pytest

from moderation.cli.policies.difference import VOID, print_words
from moderation.evaluation.changes import wording
from tests.support.builders import a_policy


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ({"certificate": "required"}, {"certificate": "required", "question": "Is it about ponds?"}, True),
        ({"certificate": "required"}, {"certificate": "required", "severity": "low"}, False),
        ({}, {"question": "Is it about ponds?"}, False),
    ],
    ids=["other words", "other keys", "none required"],
)
def test_other_words_void_a_certificate_that_is_required(
    capsys: pytest.CaptureFixture[str], old: dict[str, Any], new: dict[str, Any], said: bool
) -> None:
    print_words(wording.compared([a_policy("lakes", **old)], [a_policy("lakes", **new)]))
    assert (VOID in capsys.readouterr().out) is said
