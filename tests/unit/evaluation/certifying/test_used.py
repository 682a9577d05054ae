"""A label counts for one certificate: rows of the golden set say which."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moderation.errors import ConfigError
from moderation.evaluation.certifying import certifying, used
from moderation.evaluation.certifying.certification import Design
from moderation.evaluation.certifying.certifying import Issue, Labelled
from moderation.evaluation.files import replaced
from moderation.evaluation.posts import golden
from moderation.evaluation.samples import labels
from moderation.policies import Certificate
from moderation.settings import MediaSettings
from moderation.types import Image, Problem, Reason
from tests.support.builders import a_file, a_policy, a_post, an_image
from tests.support.labelled_samples import NO, UNKNOWN, YES, drawn, sample_of, say
from tests.support.samples import items_of, some_items

POLICY = a_policy(violates=[{"id": "L1", "text": "mentions a lake"}], allows=[{"id": "L0", "text": "news"}])
MEDIA = MediaSettings()


def labelled(folder: Path, said: Any, items: Any = None, name: str = "a", **fields: Any) -> Labelled:
    path = drawn(folder / f"{name}.sample.jsonl", sample_of(POLICY, **fields), items or some_items(len(said)))
    return Labelled(path, labels.settled(say(path, said), POLICY))


def certificate_of(sample: Labelled) -> Certificate:
    trial = certifying.precision(sample, 0.01, 0.5, Design.FIXED)
    now = sample.settlement.sample.drawn_at
    return certifying.certificate(Issue(POLICY, "", now, 90), trial.levels[0], trial)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_labels_become_rows_that_name_the_certificate(tmp_path: Path) -> None:
    sample = labelled(tmp_path, [YES, "violates:L1", NO, "allowed:L0", UNKNOWN, None])
    certificate, path = certificate_of(sample), tmp_path / "no-lakes.golden.jsonl"
    assert used.record(path, certificate, [sample], POLICY, MEDIA) == used.Recorded(4, 0)
    found = golden.read(path, POLICY, MEDIA).posts
    assert [(row.violates, row.clause) for row in found] == [(True, ""), (True, "L1"), (False, ""), (False, "L0")]
    assert {(row.split, row.source, row.certificate) for row in found} == {("cert", "qa", certificate.id)}
    assert [row.drawn and row.drawn.group for row in found] == list(sample.used[:4])
    assert [row.post.text for row in found] == [item.post.text for item in sample.settlement.items[:4]]


def test_rows_are_appended_once_and_the_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "no-lakes.golden.jsonl"
    old = '{"post": {"id": "post-2", "text": "x"}, "label": "L1"}'
    path.write_text(old)  # no line end, and the id of a post that comes
    sample = labelled(tmp_path, [YES, YES, NO])
    certificate = certificate_of(sample)
    used.record(path, certificate, [sample], POLICY, MEDIA)
    written = path.read_text()
    assert written.splitlines()[0] == old
    assert [row["post"]["id"] for row in rows(path)[1:]] == ["post-1", f"{certificate.id}-2", "post-3"]
    assert used.record(path, certificate, [sample], POLICY, MEDIA) == used.Recorded(0, 0)
    path.write_text("\n".join(written.splitlines()[:2]) + "\n")
    assert used.record(path, certificate, [sample], POLICY, MEDIA) == used.Recorded(2, 0), "it was interrupted"
    assert path.read_text() == written
    assert sorted(file.name for file in tmp_path.iterdir() if file.name.startswith(".")) == []


def test_pictures_are_kept_as_they_were_sent(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    file = tmp_path / "pictures" / "a lake.png"
    file.write_bytes(a_file(an_image()))
    broken = Image(uri="gopher://x", problem=Problem(Reason.IMAGE_FORBIDDEN, "images[2]"))
    images = (Image(uri=file.as_uri(), alt="a lake"), Image(data=a_file(an_image())), broken, Image(uri="s3://b/c.png"))
    posts = [a_post("whole", images=images), a_post("nothing", text=" ", images=(broken,))]
    sample = labelled(tmp_path, [YES, YES], items_of(posts))
    path = tmp_path / "sets" / "no-lakes.golden.jsonl"
    path.parent.mkdir()
    assert used.record(path, certificate_of(sample), [sample], POLICY, MEDIA) == used.Recorded(1, 1)
    assert rows(path)[0]["post"]["images"][0] == {"file": "../pictures/a lake.png", "alt": "a lake"}
    (row,) = golden.read(path, POLICY, MEDIA).posts
    assert [image.uri for image in row.post.images] == [file.as_uri(), None, "s3://b/c.png"]
    assert row.post.images[1].data == a_file(an_image())


def test_what_no_golden_set_holds_is_left_out(tmp_path: Path) -> None:
    """Here: a picture more than the settings of this machine take."""
    image, media = Image(uri="s3://b/c.png"), MediaSettings(max_images=1)
    sample = labelled(tmp_path, [YES, YES], items_of([a_post("fine"), a_post("many", images=(image, image))]))
    path = tmp_path / "no-lakes.golden.jsonl"
    assert used.record(path, certificate_of(sample), [sample], POLICY, media) == used.Recorded(1, 1)
    assert [row.post.id for row in golden.read(path, POLICY, media).posts] == ["fine"]


def test_a_label_that_was_used_is_refused_with_file_line_and_remedy(tmp_path: Path) -> None:
    path = tmp_path / "no-lakes.golden.jsonl"
    path.write_text('{"post": {"text": "x"}, "label": "L1"}\n')
    sample = labelled(tmp_path, [YES, NO, YES])
    certificate = certificate_of(sample)
    used.record(path, certificate, [sample], POLICY, MEDIA)
    found = golden.read(path, POLICY, MEDIA)
    used.check(found, [sample], certificate.id)
    with pytest.raises(ConfigError) as caught:
        used.check(found, [sample], "0" * 16)
    assert str(caught.value) == (
        f"{path}:2: certificate: the certificate {certificate.id} has used the label of this row and of 2 rows more, "
        "and a label counts for one certificate: draw another sample, with another --seed"
    )
    used.check(None, [sample], "0" * 16)


def test_a_label_of_the_same_seed_is_refused_and_one_of_another_is_not(tmp_path: Path) -> None:
    """Another seed draws independently of what the author knows."""
    path = tmp_path / "no-lakes.golden.jsonl"
    first = labelled(tmp_path, [YES, NO, YES])
    used.record(path, certificate_of(first), [first], POLICY, MEDIA)
    found = golden.read(path, POLICY, MEDIA)
    with pytest.raises(ConfigError, match=r":1: certificate: .* this row: draw|:1: certificate: "):
        used.check(found, [labelled(tmp_path, [YES], name="b")], "0" * 16)
    used.check(found, [labelled(tmp_path, [YES, NO], name="c", seed=8)], "0" * 16)
    used.check(found, [labelled(tmp_path, [None, None, None], name="d")], "0" * 16)


def test_a_broken_folder_is_named(tmp_path: Path) -> None:
    sample = labelled(tmp_path, [YES])
    path = tmp_path / "gone" / "no-lakes.golden.jsonl"
    with pytest.raises(ConfigError, match=f"{path}: not written: no such file or directory"):
        used.record(path, certificate_of(sample), [sample], POLICY, MEDIA)
    with pytest.raises(ConfigError, match="not written"):
        replaced(tmp_path / "gone" / "no-lakes.certificate.json", b"{}")
