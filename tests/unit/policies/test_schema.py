"""What a policy file may say, which posts a policy applies to, and what the model reads of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from moderation import policies
from moderation.policies import PolicySet
from moderation.types import Image, Post
from tests.support.builders import a_policy, a_post

SHIPPED = Path(__file__).parents[3] / "policies"


def test_the_committed_schema_is_current() -> None:
    written = (SHIPPED / "policy.schema.json").read_text()
    assert written == policies.json_schema(), "run moderation policies schema > policies/policy.schema.json"


def test_the_schema_refuses_what_the_reader_refuses() -> None:
    schema = json.loads(policies.json_schema())
    assert schema["additionalProperties"] is False
    assert {"id", "version", "title", "question", "violates", "thresholds"} <= set(schema["required"])


def test_every_clause_of_a_shipped_policy_reaches_the_model() -> None:
    for policy in PolicySet.load(SHIPPED).policies:
        for clause in (*policy.violates, *policy.allows):
            assert clause.text in policy.prose
        assert policy.prose.endswith(policy.question)


@pytest.mark.parametrize(
    ("scope", "post", "asked"),
    [
        ({}, a_post(), True),
        ({"media": ["image"]}, a_post(), False),
        ({"media": ["image"]}, a_post(images=(Image(data=b"x"),)), True),
        ({"media": ["text"]}, a_post(text=" \n", images=(Image(data=b"x"),)), False),
        ({"languages": ["de"]}, a_post(language="de-AT"), True),
        ({"languages": ["de"]}, a_post(language="en"), False),
        ({"languages": ["de"]}, a_post(), True),
        ({"languages": ["pt-BR"]}, a_post(language="pt-br"), True),
        ({"languages": ["pt-BR"]}, a_post(language="pt-BR-x-slang"), True),
        ({"languages": ["pt-BR"]}, a_post(language="pt"), True),
        ({"languages": ["en-US"]}, a_post(language="en-US"), True),
        ({"languages": ["en"]}, a_post(language="eng"), True),
        ({"languages": ["en"]}, a_post(language="EN_us"), True),
        ({"languages": ["en"]}, a_post(language="und"), True),
        ({"languages": ["en"]}, a_post(language="zxx"), True),
        ({"languages": ["en"]}, a_post(language="no idea"), True),
        ({"languages": ["pt-BR"]}, a_post(language="pt-PT"), False),
        ({"languages": ["de", "EN"]}, a_post(language="en-GB"), True),
        ({"languages": ["de"]}, a_post(language="den"), False),
        ({"languages": ["de", "*"]}, a_post(language="en"), True),
        ({"languages": ["de"], "surfaces": ["profile"]}, a_post(language="en", surface="story"), False),
    ],
)
def test_a_policy_is_asked_about_the_posts_in_its_scope(scope: dict[str, object], post: Post, asked: bool) -> None:
    some = PolicySet.of([a_policy(applies_to=scope)])
    assert bool(some.asked_of(post)) is asked


@pytest.mark.parametrize(
    ("surface", "asked"),
    [
        ("profile", ["everywhere", "profiles", "profiles-and-chats"]),
        ("Profile ", ["everywhere", "profiles", "profiles-and-chats"]),
        (" CHAT", ["everywhere", "profiles-and-chats"]),
        ("", ["everywhere", "profiles", "profiles-and-chats"]),
        ("story", ["everywhere", "profiles", "profiles-and-chats"]),  # no policy names it
        ("draft", ["everywhere", "profiles", "profiles-and-chats"]),  # no policy names it that the model is asked about
    ],
)
def test_a_surface_that_the_set_does_not_know_excludes_nothing(surface: str, asked: list[str]) -> None:
    some = PolicySet.of(
        [
            a_policy("everywhere"),
            a_policy("profiles", applies_to={"surfaces": ["PROFILE"]}),
            a_policy("profiles-and-chats", applies_to={"surfaces": ["profile", "Chat "]}, status="shadow"),
            a_policy("drafts", applies_to={"surfaces": ["draft"]}, status="draft"),
        ]
    )
    post = a_post(surface=surface)
    assert [policy.id for policy in some.asked_of(post)] == asked
    assert set(some.skipped_for(post)) == {policy.id for policy in some.policies} - set(asked)
