"""What `moderation policies check` finds in a folder: nothing in sound ones, and policies that a model refuses."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from moderation.policies import Kind, Tokenizer, check
from moderation.policies.checks import estimated_tokens
from moderation.policies.loading import load_policy
from tests.support.author_mistakes import PONDS, SOUND
from tests.support.certificates import a_certificate, put

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("folder", ["policies", "policies/demo"])
def test_the_shipped_policies_give_no_warning(folder: str) -> None:
    checked = check(ROOT / folder)
    assert checked.policies
    assert not checked.mistakes


def test_mistakes_come_in_the_order_of_files_and_lines(tmp_path: Path) -> None:
    (tmp_path / "lakes.yaml").write_text(
        SOUND.replace("review: 0.5", "review: 0").replace("title: Lakes", "title: TBD")
    )
    (tmp_path / "a.yaml").write_text("")
    checked = check(tmp_path)
    assert [(mistake.file.name, mistake.line, mistake.kind) for mistake in checked.mistakes] == [
        ("a.yaml", 1, Kind.ERROR),
        ("lakes.yaml", 3, Kind.WARNING),
        ("lakes.yaml", 10, Kind.WARNING),
    ]
    assert (len(checked.errors), len(checked.warnings)) == (1, 2)
    assert str(checked.warnings[0]) == f"{tmp_path}/lakes.yaml:3: warning: {checked.warnings[0].text}"


@pytest.mark.parametrize(("limit", "is_refused"), [(31, True), (32, False)])
def test_a_policy_that_the_model_refuses_is_an_error(tmp_path: Path, limit: int, is_refused: bool) -> None:
    (tmp_path / "lakes.yaml").write_text(SOUND)
    checked = check(tmp_path, tokenizer=Tokenizer("small", lambda prose: len(prose.split()), limit))
    problem = f"violates: the policy takes 32 tokens of {limit} with small, so a worker refuses it: shorten its clauses"
    assert [(mistake.line, mistake.text.partition(" and examples")[0]) for mistake in checked.errors] == (
        [(5, problem)] if is_refused else []
    )
    assert not checked.warnings


def test_the_estimate_knows_scripts() -> None:
    assert estimated_tokens("one lake after the other") == 6
    assert estimated_tokens("湖和池塘") == 4


def test_a_check_imports_no_torch() -> None:
    program = (
        "import pathlib, sys; from moderation.policies import check; check(pathlib.Path('policies'));"
        "print(*({'torch', 'transformers', 'tokenizers', 'numpy'} & sys.modules.keys()))"
    )
    heavy = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, timeout=60
    )
    assert heavy.stdout == "\n"


@pytest.mark.parametrize(("status", "warnings"), [("draft", 2), ("retired", 0)])
def test_nobody_misses_the_certificate_of_a_retired_policy(tmp_path: Path, status: str, warnings: int) -> None:
    (tmp_path / "lakes.yaml").write_text(SOUND)
    for id in ("ponds", "seas"):
        text = PONDS.replace("ponds", id)
        (tmp_path / f"{id}.yaml").write_text(f"{text}status: {status}\ncertificate: required\n")
    past = {"issued_at": datetime(2000, 1, 1, tzinfo=UTC), "expires_at": datetime(2001, 1, 1, tzinfo=UTC)}
    put(tmp_path, a_certificate(load_policy(tmp_path / "seas.yaml"), **past))
    found = [mistake for mistake in check(tmp_path).mistakes if "certif" in mistake.text]
    assert len(found) == warnings
