"""Golden sets: what a line may say, and each mistake with file, line and remedy."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from moderation.errors import ConfigError
from moderation.evaluation.posts import golden
from moderation.policies.loading import load_policies
from moderation.settings import MediaSettings
from tests.support.builders import a_file, a_policy, an_image
from tests.support.repository import REPO

POLICY = a_policy(violates=[{"id": "L1", "text": "mentions a lake"}], allows=[{"id": "L0", "text": "news"}])
WORDS = "words-of-a-post"


def written(folder: Path, *lines: object) -> Path:
    path = folder / f"{POLICY.id}.golden.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines) + "\n")
    return path


def read(path: Path) -> golden.GoldenSet:
    return golden.read(path, POLICY, MediaSettings())


def test_a_line_says_what_is_known_of_a_post(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "lake.png").write_bytes(a_file(an_image()))
    data = base64.b64encode(a_file(an_image())).decode()
    images = [{"file": "pictures/lake.png", "alt": "a lake"}, {"data": data}, {"uri": "s3://pictures/lake.png"}]
    post = {"id": "a", "text": "look", "images": images, "language": "en", "surface": "comment"}
    whole = {"post": post, "label": "L1", "source": "appeal", "split": "cert", "slices": {"kind": "photo"}}
    found = read(written(tmp_path, whole, "", {"post": {"text": "hello"}, "label": "allowed"}))
    first, second = found.posts
    assert (first.line, first.violates, first.clause, first.source, first.split) == (1, True, "L1", "appeal", "cert")
    assert (first.slices, first.post.id, first.post.language) == ({"kind": "photo"}, "a", "en")
    assert first.post.images[0].uri == (tmp_path / "pictures" / "lake.png").as_uri()
    assert first.post.images[0].alt == "a lake"
    assert first.post.images[1].data == a_file(an_image())
    assert first.post.images[2].uri == "s3://pictures/lake.png"
    assert found.folders == {tmp_path / "pictures"}
    assert (second.line, second.violates, second.clause, second.source, second.split) == (3, False, "", "seed", "dev")
    assert second.post.id == "line-3"


@pytest.mark.parametrize(
    ("label", "violates", "clause"),
    [("violates", True, ""), ("allowed", False, ""), ("L1", True, "L1"), ("L0", False, "L0")],
)
def test_labels(label: str, violates: bool, clause: str, tmp_path: Path) -> None:
    (only,) = read(written(tmp_path, {"post": {"text": "x"}, "label": label})).posts
    assert (only.violates, only.clause) == (violates, clause)


POST: dict[str, Any] = {"text": WORDS}
MISTAKES: dict[str, tuple[object, str]] = {
    "no JSON": ('{"post": ', "not JSON in column"),
    "no object": ("[1]", "must be an object"),
    "another key": ({"post": POST, "lable": "L1"}, "did you mean label?"),
    "an unknown key": ({"post": POST, "label": "L1", "x": 1}, "the keys are post, label"),
    "a key twice": ('{"post": {"text": "x"}, "label": "L1", "label": "L0"}', "label: given twice"),
    "no label": ({"post": POST}, "label: this key is missing"),
    "no post": ({"label": "L1"}, "post: this key is missing"),
    "no such clause": ({"post": POST, "label": "L9"}, "write one of violates, allowed, L1, L0"),
    "a label of another type": ({"post": POST, "label": True}, "label: must be violates"),
    "a source": ({"post": POST, "label": "L1", "source": "web"}, "source: must be one of seed, appeal, qa, attack"),
    "a split": ({"post": POST, "label": "L1", "split": "test"}, "split: must be one of dev, cert"),
    "a certificate of a dev row": (
        {"post": POST, "label": "L1", "certificate": "0" * 16},
        'certificate: a row that a certificate used has "split": "cert": write that',
    ),
    "a certificate that is none": (
        {"post": POST, "label": "L1", "split": "cert", "certificate": "mine"},
        "certificate: must be the id of a certificate, 16 digits",
    ),
    "a draw without a certificate": (
        {"post": POST, "label": "L1", "split": "cert", "drawn": {"group": "0" * 64, "seed": 1}},
        "drawn: names no certificate: add the key certificate",
    ),
    "a draw that is none": (
        {"post": POST, "label": "L1", "split": "cert", "certificate": "0" * 16, "drawn": {"group": "0" * 64}},
        "drawn: must be as certify writes it",
    ),
    "slices": ({"post": POST, "label": "L1", "slices": ["en"]}, "slices: must be an object of texts"),
    "a post of another type": ({"post": WORDS, "label": "L1"}, "post: must be an object"),
    "an empty post": ({"post": {}, "label": "L1"}, "neither text nor images"),
    "a field of a post": ({"post": {"txt": WORDS}, "label": "L1"}, "A post has no such field."),
    "an id": ({"post": {"text": "x", "id": "a\nb"}, "label": "L1"}, "post.id:"),
    "a missing file": ({"post": {"images": [{"file": "gone.png"}]}, "label": "L1"}, "images[0].file: there is no such"),
    "an absolute file": ({"post": {"images": [{"file": "/etc/hosts"}]}, "label": "L1"}, "must be a path from"),
    "two sources": (
        {"post": {"images": [{"file": "a", "uri": "s3://a/b"}]}, "label": "L1"},
        "one of file, uri and data",
    ),
    "no base64": ({"post": {"images": [{"data": "%%"}]}, "label": "L1"}, "post.images[0].data:"),
    "deep nesting": ("[" * 100_000, "no post has such a value"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_has_file_line_and_remedy_and_quotes_no_post(name: str, tmp_path: Path) -> None:
    line, says = MISTAKES[name]
    path = written(tmp_path, {"post": {"text": "good"}, "label": "L1"}, line)
    with pytest.raises(ConfigError) as caught:
        read(path)
    (text,) = str(caught.value).splitlines()
    assert text.startswith(f"{path}:2: ")
    assert says in text
    assert WORDS not in text


def test_all_mistakes_are_listed(tmp_path: Path) -> None:
    same = {"post": {"text": "x", "id": "a"}, "label": "L1"}
    path = written(tmp_path, same, same, "{}", "\udcff".encode("utf-8", "surrogateescape").decode("latin-1"))
    with pytest.raises(ConfigError) as caught:
        read(path)
    lines = str(caught.value).splitlines()
    assert [line.split(":")[1] for line in lines] == ["2", "3", "4"]
    assert "line 1 has this id, too" in lines[0]


def test_a_label_counts_for_one_certificate(tmp_path: Path) -> None:
    row = {"post": {"text": "x"}, "label": "L1", "split": "cert", "certificate": "0" * 16}
    drawn = [row | {"drawn": {"group": "1" * 64, "seed": seed}} for seed in (1, 2, 1)]
    first, second = read(written(tmp_path, *drawn[:2])).posts
    assert (first.certificate, first.drawn, second.drawn) == (
        "0" * 16,
        golden.Drawn("1" * 64, 1),
        golden.Drawn("1" * 64, 2),
    )
    path = written(tmp_path, *drawn)
    with pytest.raises(ConfigError, match=r":3: drawn: line 1 has this draw, too: .*; delete one$"):
        read(path)


def test_an_empty_set_and_a_missing_one_are_mistakes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="holds no post: write one a line"):
        read(written(tmp_path, ""))
    with pytest.raises(ConfigError, match="not readable"):
        read(tmp_path / "gone.golden.jsonl")


def test_bytes_that_are_no_text_are_a_mistake(tmp_path: Path) -> None:
    path = tmp_path / "lakes.golden.jsonl"
    path.write_bytes(
        b'\xef\xbb\xbf{"post": {"text": "x"}, "label": "L1"}\r\n{"post": {"text": "\xff"}, "label": "L1"}\r\n'
    )
    with pytest.raises(ConfigError, match=":2: not UTF-8"):
        read(path)


def test_a_set_lies_beside_its_policy(tmp_path: Path) -> None:
    assert golden.beside(POLICY, tmp_path) is None
    path = written(tmp_path, {})
    assert golden.beside(POLICY, tmp_path) == path
    (tmp_path / "cases.jsonl").touch()
    assert golden.beside(POLICY.model_copy(update={"golden": "cases.jsonl"}), tmp_path) == tmp_path / "cases.jsonl"


def test_the_digest_is_that_of_the_file(tmp_path: Path) -> None:
    path = written(tmp_path, {"post": {"text": "x"}, "label": "L1"})
    assert read(path).digest == hashlib.sha256(path.read_bytes()).hexdigest()


LAKES = """id: lakes
version: 1
title: Lakes
question: Does this post mention a lake?
violates:
  - {id: L1, text: mentions a lake}
  - {id: L2, text: shows a lake}
allows:
  - {id: L0, text: news}
thresholds: {review: 0.5, remove: 0.9}
"""


def linted(folder: Path) -> list[str]:
    return [str(mistake).removeprefix(f"{folder}/") for mistake in golden.lint(folder, MediaSettings())]


def test_a_clause_that_no_case_shows_is_a_warning(tmp_path: Path) -> None:
    (tmp_path / "lakes.yaml").write_text(LAKES)
    assert linted(tmp_path) == [
        "lakes.yaml:1: warning: id: the policy has no golden set, so nothing shows what it does: "
        "write lakes.golden.jsonl beside it"
    ]
    rows: list[dict[str, Any]] = [
        {"post": {"text": "a"}, "label": "L1"},
        {"post": {"text": "b"}, "label": "violates", "slices": {"near": "L2"}},  # no near miss: it violates
        {"post": {"text": "c"}, "label": "allowed", "slices": {"near": "L1"}},
        {"post": {"text": "d"}, "label": "allowed", "slices": {"near": "L0"}},
    ]
    path = tmp_path / "lakes.golden.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    name = "lakes.golden.jsonl"
    assert linted(tmp_path) == [
        f"{name}:4: warning: slices.near: no clause that forbids has this id: write one of L1, L2",
        f"lakes.yaml:7: warning: violates, clause 2: {name} has no post that violates L2: add one with this label",
        f"lakes.yaml:7: warning: violates, clause 2: {name} has no near miss of L2: add an allowed post with "
        '"slices": {"near": "L2"}',
        f"lakes.yaml:9: warning: allows, clause 1: {name} has no post that L0 allows: add one with this label",
    ]
    rows[3:] = [
        {"post": {"text": "e"}, "label": "L0", "slices": {"near": "L2"}},
        {"post": {"text": "f"}, "label": "L2"},
    ]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    assert linted(tmp_path) == []
    path.write_text("{}\n")
    assert linted(tmp_path)[0].startswith(f"{name}:1: post: this key is missing")


def test_a_set_that_the_policy_names_must_exist_and_one_that_is_never_asked_needs_none(tmp_path: Path) -> None:
    (tmp_path / "lakes.yaml").write_text(f"{LAKES}golden: cases.jsonl\n")
    (error,) = golden.lint(tmp_path, MediaSettings())
    assert (error.kind, error.line) == ("error", 11)
    assert "write cases.jsonl, or delete the key" in error.text
    (tmp_path / "lakes.yaml").write_text(f"{LAKES}status: draft\n")
    assert linted(tmp_path) == []


@pytest.mark.parametrize("folder", ["policies", "policies/demo"])
def test_the_sets_that_ship_show_each_clause(folder: str) -> None:
    assert linted(REPO / folder) == []
    for policy in load_policies(REPO / folder):
        path = golden.beside(policy, REPO / folder)
        assert path is not None
        posts = golden.read(path, policy, MediaSettings()).posts
        assert len(posts) >= 28
        for clause in policy.violates:
            assert sum(each.clause == clause.id for each in posts) >= 3, (policy.id, clause.id)
