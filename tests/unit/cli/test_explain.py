"""`moderation explain` on files: what it prints, its exit codes, and that it shows no content."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from moderation.cli.app import app
from moderation.v1 import post_pb2
from tests.support.builders import a_file

WRITTEN = "what-a-user-wrote"
PICTURE = base64.b64encode(a_file()).decode()


def explained(tmp_path: Path, value: bytes, *options: str) -> tuple[int, str]:
    (tmp_path / "post").write_bytes(value)
    result = CliRunner().invoke(app, ["explain", str(tmp_path / "post"), *options])
    assert WRITTEN not in result.output
    return result.exit_code, result.output


def of(**fields: object) -> bytes:
    return json.dumps({"id": "1", "tenant": "shop", "text": WRITTEN} | fields).encode()


def test_a_sound_post(tmp_path: Path) -> None:
    code, text = explained(tmp_path, of(images=[{"data": PICTURE, "alt": WRITTEN}]))
    assert code == 0
    assert "id 1, tenant shop" in text
    assert f"text: {len(WRITTEN)} characters; 1 image\n" in text
    assert text.endswith("sound: workers with these settings read all of it\ndead letter: no\n")


def test_of_a_text_that_may_take_too_many_windows_it_says_what_it_cannot_tell(tmp_path: Path) -> None:
    for characters, long in ((16_000, False), (17_000, True)):  # half of 16 windows of 2,048 tokens
        code, text = explained(tmp_path, of(text="x" * characters))
        assert (code, "sound: workers with these settings read all of it" in text) == (0, not long)
        rule = "whether the model reads all of a long text is not checked here: deploy/README.md#how-long-a-text-may-be"
        assert (rule in text) == long
        assert json.loads(explained(tmp_path, of(text="x" * characters), "--json")[1])["windowsUncounted"] == long
    assert "\n## How long a text may be\n" in Path("deploy/README.md").read_text(encoding="utf-8")


def test_an_unknown_field_of_a_file_is_named_beside_the_fields_that_there_are(tmp_path: Path) -> None:
    _, text = explained(tmp_path, b'{"id":"1","body":"hello"}')
    assert "A post has no such field." in text
    assert "It may have id, text, images, tenant, language, surface." in text
    assert 'no field named "body"' in text
    _, text = explained(tmp_path, of(images=[{"url": WRITTEN}]))
    assert "An image has no such field." in text
    assert "It may have data, uri, alt." in text
    assert 'no field named "url"' in text


def test_advice_is_given_once(tmp_path: Path) -> None:
    code, text = explained(tmp_path, of(images=[{"data": "AAAA"}] * 3))
    assert code == 1
    assert [text.count(f"not judged: IMAGE_UNSUPPORTED, images[{index}]") for index in range(3)] == [1, 1, 1]
    assert text.count("No viewer sees a picture") == 1
    assert text.endswith("dead letter: yes\n")


def test_a_torn_picture_is_not_said_to_be_unjudged(tmp_path: Path) -> None:
    torn = base64.b64encode(a_file()[:100]).decode()
    _, text = explained(tmp_path, of(images=[{"data": torn}]))
    assert "judged in part at most: IMAGE_CORRUPT, images[0]\n" in text


def test_a_reference_over_http_has_advice_that_can_be_followed(tmp_path: Path) -> None:
    _, text = explained(tmp_path, of(images=[{"uri": "https://example.com/a.jpg"}]))
    assert "not judged: IMAGE_FORBIDDEN, images[0].uri: scheme\n" in text
    assert "Send the bytes, or a reference below MODERATION_MEDIA__ROOTS" in text


@pytest.mark.parametrize(("tag", "told"), [("english", True), ("en_US", False), ("", False)])
def test_a_label_that_is_no_language_tag_is_told(tmp_path: Path, tag: str, told: bool) -> None:
    (tmp_path / "post").write_bytes(of(language=tag))
    result = CliRunner().invoke(app, ["explain", str(tmp_path / "post")])
    assert ("no policy is excluded by it" in result.stderr) == told


def test_a_text_of_which_parts_are_judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODERATION_MEDIA__MAX_TEXT_CHARS", "10")
    code, text = explained(tmp_path, of())
    assert (code, "judged in part: TEXT_TOO_LONG, text" in text, "sound" in text) == (0, True, False), text


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (of(note=WRITTEN), "refused: NOT_DECODABLE, unknown field"),
        (of(images=[{"url": WRITTEN}]), "refused: NOT_DECODABLE, images[0]: unknown field"),
        (b"[" + of() + b"]", "refused: NOT_DECODABLE, not an object"),
        (of(id=7), "refused: NOT_DECODABLE, id: not a string"),
        (of(images=[{"data": "A*AA"}, {"data": PICTURE}]), "not judged: NOT_DECODABLE, images[0].data: base64"),
        (of(images=[{"data": "AAAA"}]), "not judged: IMAGE_UNSUPPORTED, images[0]"),
        (post_pb2.Post(id="1", text=WRITTEN).SerializeToString(), "Send the header `content-type: application/x-proto"),
    ],
)
def test_what_becomes_a_dead_letter_is_named_with_what_to_do(tmp_path: Path, value: bytes, said: str) -> None:
    code, text = explained(tmp_path, value)
    assert (code, said in text) == (1, True), text
    assert "sound" not in text
    code, text = explained(tmp_path, value, "--json")
    told = json.loads(text)
    assert (code, told["deadLetter"]) == (1, True)
    (problem,) = told["problems"]
    assert problem["meaning"]
    assert problem["whatToDo"]


def test_what_a_limit_cuts_off_is_no_dead_letter(tmp_path: Path) -> None:
    code, text = explained(tmp_path, of(images=[{"data": PICTURE}] * 9))
    assert code == 0
    assert "not judged: TOO_MANY_IMAGES, from images[8] on" in text


def test_a_file_is_read_by_its_content_type(tmp_path: Path) -> None:
    value = post_pb2.Post(id="1", text=WRITTEN).SerializeToString()
    code, text = explained(tmp_path, value, "--content-type", "application/x-protobuf")
    assert code == 0
    assert "Protobuf" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a file, or --partition and --offset"),
        (["--topic", "posts", "--partition", "0"], "--offset"),
        (["file", "--offset", "1"], "and not both"),
        (["--partition", "0", "--offset", "0", "--content-type", "x"], "--content-type goes with a file"),
    ],
)
def test_options_that_do_not_go_together_are_named(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["explain", *arguments])
    assert message in str(result.exception)
