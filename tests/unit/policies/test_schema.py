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
        ({"languages": ["pt-BR"]}, a_post(language="pt"), False),
        ({"languages": ["pt-BR"]}, a_post(language="pt-PT"), False),
        ({"languages": ["de", "EN"]}, a_post(language="en-GB"), True),
        ({"languages": ["de"]}, a_post(language="den"), False),
        ({"languages": ["de", "*"]}, a_post(language="en"), True),
        ({"surfaces": ["profile"]}, a_post(surface="comment"), False),
        ({"surfaces": ["profile"]}, a_post(surface="profile"), True),
    ],
)
def test_a_policy_is_asked_about_the_posts_in_its_scope(scope: dict[str, object], post: Post, asked: bool) -> None:
    some = PolicySet.of([a_policy(applies_to=scope)])
    assert bool(some.asked_of(post)) is asked
