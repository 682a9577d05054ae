from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from moderation.policies.prompts import Slot, Trusted, Untrusted, fence, render
from moderation.types import Content, Question
from tests.support.builders import an_image

QUESTIONS = [Question("a", "Is it a?"), Question("b", "Is it b?")]


def test_order_is_instructions_pictures_text_and_one_branch_a_question() -> None:
    content = Content("hello", (an_image(), an_image()), "d")
    prompt = render(content, QUESTIONS)
    kinds = [type(part) for part in prompt.shared]
    assert kinds == [Trusted, Slot, Trusted, Slot, Trusted, Trusted, Untrusted, Trusted]
    assert [part.picture for part in prompt.shared if isinstance(part, Slot)] == [0, 1]
    assert [branch.split("\n")[0] for branch in prompt.branches] == ["Is it a?", "Is it b?"]


def test_the_shared_part_does_not_depend_on_the_questions() -> None:
    content = Content("hello", (), "d")
    assert render(content, QUESTIONS).shared == render(content, QUESTIONS[1:]).shared


@given(st.text())
def test_only_the_post_itself_is_untrusted_and_it_is_whole(text: str) -> None:
    parts = render(Content(text, (), "d"), QUESTIONS).shared
    untrusted = [part.text for part in parts if isinstance(part, Untrusted)]
    assert untrusted == ([text] if text else [])


@given(st.text(alphabet="~a \n"))
def test_no_post_can_close_its_own_fence(text: str) -> None:
    assert fence(text) not in text
    assert len(fence(text)) >= 3
