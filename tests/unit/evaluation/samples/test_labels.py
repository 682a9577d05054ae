"""Labels of a sample: none is lost, two people and an adjudication settle them, and mistakes are named."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from moderation.errors import ConfigError
from moderation.evaluation.samples import labels, samples
from moderation.evaluation.samples.labels import ADJUDICATION, Label, Said, Settled
from tests.support.builders import a_policy
from tests.support.samples import a_sample, some_items

POLICY = a_policy(violates=[{"id": "L1", "text": "mentions a lake"}], allows=[{"id": "L0", "text": "news"}])
YES, NO, NEVER = Label(Said.VIOLATES), Label(Said.ALLOWED), Label(Said.UNDECIDABLE)
LAKE = Label(Said.VIOLATES, "L1")


@pytest.fixture
def sample(tmp_path: Path) -> Path:
    path = tmp_path / "spam.sample.jsonl"
    samples.write(path, a_sample(), some_items(4))
    return path


def labelled(sample: Path, labeller: str, given: Mapping[int, Label]) -> Path:
    with labels.opened(sample, labeller, POLICY) as pen:
        for number, label in given.items():
            pen.write(number, label)
    return pen.path


def test_one_person_settles_what_they_label(sample: Path) -> None:
    labelled(sample, "anna", {1: LAKE, 2: NO, 3: NEVER})
    found = labels.settled(sample, POLICY)
    assert found.labels == (Settled.VIOLATES, Settled.ALLOWED, Settled.UNDECIDABLE, Settled.UNLABELLED)
    assert found.clauses == ("L1", "", "", "")
    assert found.labellers == ("anna",)
    assert (found.sample, found.items) == samples.read(sample)


def test_without_labels_nothing_is_settled(sample: Path) -> None:
    with labels.opened(sample, "anna"):
        assert labels.settled(sample).labels == (Settled.UNLABELLED,) * 4
    assert labels.settled(sample).labellers == ()


def test_two_people_must_agree_or_somebody_decides(sample: Path) -> None:
    labelled(sample, "anna", {1: LAKE, 2: NO, 3: YES, 4: NEVER})
    labelled(sample, "ben", {1: YES, 2: YES, 4: NO})
    found = labels.settled(sample)
    assert found.labels == (Settled.VIOLATES, Settled.DISPUTED, Settled.UNLABELLED, Settled.DISPUTED)
    assert found.clauses == ("", "", "", "")
    assert found.labellers == ("anna", "ben")
    labelled(sample, ADJUDICATION, {1: NO, 2: LAKE, 3: NO, 4: NEVER})
    found = labels.settled(sample)
    # 1: they agree, so there is nothing to decide. 3: ben's label is missing.
    assert found.labels == (Settled.VIOLATES, Settled.VIOLATES, Settled.UNLABELLED, Settled.UNDECIDABLE)
    assert found.clauses == ("", "L1", "", "")
    assert found.labellers == ("anna", "ben")


@pytest.mark.parametrize("people", [1, 2, 3])
def test_what_is_settled_of_an_item(people: int) -> None:
    for given in itertools.product([YES, LAKE, NO, NEVER, None], repeat=people):
        for decided in (None, YES, NO, NEVER):
            said = {label.said if label else None for label in given}
            result, _ = labels.settle(given, decided)
            if None in said:
                assert result is Settled.UNLABELLED
            elif len(said) == 1:
                assert result == given[0].said  # type: ignore[union-attr]
            else:
                assert result == (decided.said if decided else Settled.DISPUTED)


def test_the_last_label_of_an_item_counts_and_can_be_taken_back(sample: Path) -> None:
    labelled(sample, "anna", {1: YES, 2: YES})
    labelled(sample, "anna", {1: NO})
    assert labels.settled(sample).labels[:2] == (Settled.ALLOWED, Settled.VIOLATES)
    with labels.opened(sample, "anna") as pen:
        assert pen.undo() == 1  # of an earlier time
        pen.write(3, YES)
        assert [pen.undo(), pen.undo(), pen.undo()] == [3, 2, None]
        pen.write(4, YES)
    assert labels.settled(sample).labels == (*(Settled.UNLABELLED,) * 3, Settled.VIOLATES)


def test_the_digest_follows_labels_and_nothing_else(sample: Path) -> None:
    labelled(sample, "anna", {1: YES, 2: NO})
    first = labels.settled(sample).digest
    labelled(sample, "anna", {2: NO})  # the same label, at another time
    assert labels.settled(sample).digest == first
    labelled(sample, "anna", {2: YES})
    assert labels.settled(sample).digest != first


def test_a_label_is_on_the_disk_when_write_returns(sample: Path) -> None:
    """A process that dies on the spot has lost no label."""
    program = (
        "import os, sys; from pathlib import Path;"
        "from moderation.evaluation.samples import labels\n"
        "from moderation.evaluation.samples.labels import Label, Said\n"
        "with labels.opened(Path(sys.argv[1]), 'anna') as pen:\n"
        "    for number in (1, 2, 3): pen.write(number, Label(Said.VIOLATES))\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program, str(sample)], check=False, timeout=60)
    assert ended.returncode == -9
    assert labels.settled(sample).labels == (*(Settled.VIOLATES,) * 3, Settled.UNLABELLED)


def test_half_a_line_is_no_label_and_is_in_nobodys_way(sample: Path) -> None:
    path = labelled(sample, "anna", {1: YES, 2: NO})
    path.write_bytes(path.read_bytes()[:-9])
    assert labels.settled(sample).labels[:2] == (Settled.VIOLATES, Settled.UNLABELLED)
    labelled(sample, "anna", {2: YES})
    assert labels.settled(sample).labels[:2] == (Settled.VIOLATES, Settled.VIOLATES)


def test_a_file_that_was_made_and_not_begun_is_taken_up(sample: Path) -> None:
    labels.path_of(sample, "anna").write_bytes(b'{"format": 1, "sam')
    assert labels.settled(sample).labellers == ()
    labelled(sample, "anna", {1: YES})
    assert labels.settled(sample).labels[0] is Settled.VIOLATES


def test_one_terminal_writes_a_file_at_a_time(sample: Path) -> None:
    with labels.opened(sample, "anna") as pen:
        with pytest.raises(ConfigError, match="anna is labelling in another terminal"), labels.opened(sample, "anna"):
            pass
        pen.write(1, YES)
        labelled(sample, "ben", {1: YES})
    assert labels.settled(sample).labels[0] is Settled.VIOLATES


def test_labels_of_another_sample_are_refused(sample: Path) -> None:
    labelled(sample, "anna", {1: YES})
    sample.unlink()
    samples.write(sample, a_sample(seed=8), some_items(4))
    for read in (labels.settled, labels.sheets):
        with pytest.raises(
            ConfigError, match=r"spam\.anna\.labels\.jsonl:1: sample: these are labels of another sample"
        ):
            read(sample)
    with pytest.raises(ConfigError, match="labels of another sample"), labels.opened(sample, "anna"):
        pass


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ({"item": 9, "label": "violates"}, ":3: item: the sample has 4 items: delete the line"),
        ({"item": 2, "label": "perhaps"}, ":3: label: input should be 'violates', 'allowed'"),
        ({"item": 2, "label": "violates", "clause": "L0"}, ":3: clause: no clause of no-lakes .* write one of L1"),
        ({"item": 2, "label": "allowed", "clause": "L9"}, ":3: clause: no clause of no-lakes .* write one of L0"),
        ({"item": 2, "label": "undecidable", "clause": "L1"}, ":3: clause: .* write nothing: delete the key"),
        ({"item": 2, "label": "violates", "score": 1}, ":3: score: extra inputs are not permitted"),
        ("words-of-a-post", ":3: the line: not readable: mend the line, or delete it; all other labels are kept"),
    ],
)
def test_a_wrong_label_is_named_and_the_others_stay(sample: Path, line: object, says: str) -> None:
    path = labelled(sample, "anna", {1: YES})
    kept = path.read_bytes()
    text = line if isinstance(line, str) else json.dumps({"at": "2026-01-31T00:00:00Z", **line})  # type: ignore[dict-item]
    path.write_bytes(kept + text.encode() + b"\n")
    with pytest.raises(ConfigError, match=says) as raised:
        labels.settled(sample, POLICY)
    assert "words-of-a-post" not in str(raised.value)
    with pytest.raises(ConfigError, match=says), labels.opened(sample, "anna", POLICY):
        pass
    assert path.read_bytes() == kept + text.encode() + b"\n"
    path.write_bytes(kept)
    assert labels.settled(sample, POLICY).labels[0] is Settled.VIOLATES


def test_a_file_under_another_name_is_refused(sample: Path) -> None:
    labelled(sample, "anna", {1: YES}).rename(labels.path_of(sample, "ben"))
    with pytest.raises(ConfigError, match=":1: labeller: these are the labels of anna"):
        labels.settled(sample)


@pytest.mark.parametrize("name", ["", "a b", "../a", "a.b", "ä", "x" * 65])
def test_a_name_that_no_file_can_have_is_refused(sample: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot be a labeller's name"):
        labels.path_of(sample, name)


def test_a_full_disk_loses_no_label(sample: Path) -> None:
    """The label that does not fit is not kept, and leaves no half line before those that come later."""
    program = (
        "import resource, sys; from pathlib import Path; import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "from moderation.errors import ConfigError\n"
        "from moderation.evaluation.samples import labels\n"
        "from moderation.evaluation.samples.labels import Label, Said\n"
        "with labels.opened(Path(sys.argv[1]), 'anna') as pen:\n"
        "    pen.write(1, Label(Said.VIOLATES))\n"
        "    size = pen.path.stat().st_size\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 20, resource.RLIM_INFINITY))\n"
        "    try: pen.write(2, Label(Said.VIOLATES))\n"
        "    except ConfigError as error: print(error)\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        "    pen.write(3, Label(Said.VIOLATES))\n"
    )
    command = [sys.executable, "-c", program, str(sample)]
    ended = subprocess.run(command, check=True, timeout=60, capture_output=True, text=True)
    assert "the label is not kept" in ended.stdout
    yes, no = Settled.VIOLATES, Settled.UNLABELLED
    assert labels.settled(sample).labels == (yes, no, yes, no)
