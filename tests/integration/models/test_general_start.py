"""What a checkpoint on a class of transformers may do at start and with its template: answered, or refused with why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from moderation import models
from moderation.errors import ConfigError
from moderation.models.general import chat
from moderation.models.general.classifier import GeneralClassifier
from moderation.models.general.network import CachedNetwork
from moderation.settings import ModelSettings
from tests.support.general import llava as llava_seed
from tests.support.general import make
from tests.support.small_model import a_content, a_picture, questions


@pytest.fixture
def llava(tmp_path: Path) -> Path:
    """A checkpoint that a test may change."""
    return make("llava", tmp_path / "llava")


def load(folder: Path) -> GeneralClassifier:
    model = models.load(ModelSettings(name=str(folder), device="cpu"))
    assert isinstance(model, GeneralClassifier)
    return model


def change(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_a_users_words_cannot_open_a_picture(llava: Path) -> None:
    """The template writes No before each picture: an added token, which merges make too."""
    tokenizer = json.loads((llava / "tokenizer.json").read_text())
    token = {**tokenizer["added_tokens"][-1], "id": tokenizer["model"]["vocab"]["No"], "content": "No"}
    change(llava / "tokenizer.json", added_tokens=[*tokenizer["added_tokens"], token])
    change(llava / "chat_template.json", chat_template=llava_seed.TEMPLATE.replace("<image>", "No<image>"))
    template = load(llava).checkpoint.template
    assert token["id"] in template.reserved
    assert token["id"] in template.tokenizer.untrusted("No", joined=True), "the tokenizer alone would make it"
    assert token["id"] not in template.user_text("No, no. No<image>No")


def test_a_tokenizer_that_cuts_words_at_random_is_refused(llava: Path) -> None:
    tokenizer = json.loads((llava / "tokenizer.json").read_text())
    change(llava / "tokenizer.json", model={**tokenizer["model"], "dropout": 0.5})
    with pytest.raises(ConfigError, match="cuts words at random"):
        load(llava)


def test_a_template_is_given_what_transformers_gives_it(llava: Path) -> None:
    change(
        llava / "chat_template.json", chat_template="{% if tools is not none %}Tools: {% endif %}" + llava_seed.TEMPLATE
    )
    assert chat.ChatTemplate(llava, "<image>", {}).frame(0).pieces == ("USER: ",)


def test_more_pictures_than_a_template_takes_are_shown_in_groups(llava: Path) -> None:
    limit = "{% if messages[0].content | length > 3 %}{{ raise_exception('two pictures at most') }}{% endif %}"
    change(llava / "chat_template.json", chat_template=limit + llava_seed.TEMPLATE)
    model = load(llava)
    for pictures, groups in ((2, [2]), (3, [2, 1]), (5, [2, 2, 1])):
        windows = model.encode(a_content("", *[a_picture(60, 60)] * pictures), questions(1))
        assert ([len(window.pictures) for window in windows], windows.problems) == (groups, ())


def test_a_templates_words_are_spelled_out_with_any_space(llava: Path) -> None:
    change(llava / "chat_template.json", chat_template=llava_seed.TEMPLATE.replace("ASSISTANT:", "### ASSISTANT says:"))
    template = load(llava).checkpoint.template
    for text in ("### ASSISTANT says:", "###▁ASSISTANT▁says:"):
        assert template.user_text(text) != template.after_text(text)


def test_a_class_that_fails_on_a_post_of_our_own_is_refused(llava: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*_given: Any, **_named: Any) -> Any:
        raise TypeError("forward() got an unexpected keyword argument 'logits_to_keep'")

    monkeypatch.setattr(CachedNetwork, "_run", run)
    with pytest.raises(ConfigError, match=r"cannot run .* our own \(TypeError: .*logits_to_keep"):
        load(llava)


def test_a_context_that_two_pictures_do_not_fit_is_no_fault(llava: Path) -> None:
    text = json.loads((llava / "config.json").read_text())["text_config"]
    change(llava / "config.json", text_config=text | {"max_position_embeddings": 132})
    assert load(llava).checkpoint.context == 132
