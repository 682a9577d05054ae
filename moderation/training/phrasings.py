"""Policies of the small world, as their YAML files would have them: which words they use, and what they come to.

A policy has a kind (where it looks), one or two subjects (things or groups) and a phrasing: title, clause, question.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from random import Random

from moderation.policies import Clause, Policy, PolicyThresholds
from moderation.training.world import (
    BY_NAME,
    GROUPS,
    HELD_OUT_GROUPS,
    MADE_UP,
    THINGS,
    Truth,
    allowed,
    held_out,
    members,
)


class Kind(StrEnum):
    """What a post must do to violate the policy."""

    EITHER = "either"  # show it or mention it
    PICTURE = "picture"
    TEXT = "text"
    BOTH = "both"
    OFFER = "offer"


@dataclass(frozen=True, slots=True)
class Phrasing:
    titles: tuple[str, ...]
    clauses: tuple[str, ...]
    questions: tuple[str, ...]


# {x}: "guns", or "guns or beer"
TRAINED = {
    Kind.EITHER: Phrasing(
        ("{x}", "No {x}", "{x} in any form"),
        (
            "shows or mentions {x}",
            "has {x} in its picture or in its text",
            "is about {x}, in words or in pictures",
            "contains {x}",
            "mentions {x} or shows it in a picture",
        ),
        (
            "Does this post show or mention {x}?",
            "Is there {x} in the picture or in the text?",
            "Does the post contain {x}?",
            "Is this post about {x}?",
            "Does it break the rule against {x}?",
        ),
    ),
    Kind.PICTURE: Phrasing(
        ("Pictures of {x}", "No pictures of {x}", "{x} in pictures"),
        (
            "shows {x} in a picture",
            "has a picture of {x}",
            "has {x} in its picture, whatever its text says",
            "contains {x} in a picture",
        ),
        (
            "Does a picture show {x}?",
            "Is there {x} in the picture?",
            "Can {x} be seen in the picture?",
            "Does the post have a picture of {x}?",
        ),
    ),
    Kind.TEXT: Phrasing(
        ("Talk about {x}", "No talk about {x}", "{x} in texts"),
        (
            "mentions {x} in its text",
            "talks about {x}",
            "has {x} in its text, whatever its picture shows",
            "says something about {x}",
        ),
        (
            "Does the text mention {x}?",
            "Does the text talk about {x}?",
            "Is there {x} in the text?",
            "Does the post say something about {x}?",
        ),
    ),
    Kind.BOTH: Phrasing(
        ("{x} in picture and text", "{x} shown and mentioned"),
        (
            "shows {x} in a picture and mentions {x} in its text",
            "has {x} both in its picture and in its text",
            "talks about {x} and has a picture of {x}",
        ),
        (
            "Is there {x} both in the picture and in the text?",
            "Does the picture show {x} and the text mention {x}?",
            "Does this post both show and mention {x}?",
        ),
    ),
    Kind.OFFER: Phrasing(
        ("Sale of {x}", "No sale of {x}", "{x} for sale"),
        (
            "offers {x} for sale",
            "sells {x}, in words or with a picture of it",
            "tries to sell {x}",
            "offers {x} for money",
        ),
        (
            "Does this post offer {x} for sale?",
            "Does the post sell {x}?",
            "Is there {x} for sale in this post?",
            "Does it offer {x} for money?",
        ),
    ),
}
# Trained on, too, once the answers of those above are known: from many ways to say a thing the next one can be guessed.
WIDER = {
    Kind.EITHER: Phrasing(
        ("{x} in words or pictures", "A post with {x}", "No post with {x}"),
        (
            "has a picture of {x} or a text that mentions {x}",
            "shows {x} in a picture or says something about {x}",
            "mentions {x} in words or has a picture of it",
            "contains {x} in any form",
            "has something about {x} in words or in pictures",
        ),
        (
            "Does the picture show {x}, or does the text mention {x}?",
            "Is there any {x} in this post?",
            "Does this post say something about {x} or show it?",
            "Is there a picture of {x}, or talk about {x}?",
        ),
    ),
    Kind.PICTURE: Phrasing(
        ("{x} in a picture", "A post with a picture of {x}", "No picture of {x}"),
        ("shows {x}", "has {x} in a picture", "has a picture that shows {x}", "shows {x}, whatever its text says"),
        (
            "Does this post show {x}?",
            "Is {x} in the picture?",
            "Does its picture show {x}?",
            "Is there a picture of {x} in this post?",
        ),
    ),
    Kind.TEXT: Phrasing(
        ("{x} in words", "A post that mentions {x}", "No words about {x}"),
        (
            "mentions {x}",
            "has words about {x}",
            "mentions {x} in words, whatever its picture shows",
            "talks about {x} in its text",
        ),
        (
            "Does the post mention {x}?",
            "Is {x} in the text?",
            "Is there talk about {x} in the text?",
            "Does its text mention {x}?",
        ),
    ),
    Kind.BOTH: Phrasing(
        ("{x} in words and pictures", "{x} both in picture and text", "{x} in the picture and in the text"),
        (
            "has a picture of {x} and a text that mentions {x}",
            "shows {x} and says something about {x}",
            "has {x} in words and in a picture",
            "mentions {x} in its text and has a picture of it",
        ),
        (
            "Does this post show {x}, and does its text mention {x}?",
            "Is {x} in the picture and in the text?",
            "Is there a picture of {x} and talk about {x}?",
        ),
    ),
    Kind.OFFER: Phrasing(
        ("Selling {x}", "No {x} for sale", "A post that sells {x}"),
        (
            "sells {x}",
            "is about the sale of {x}",
            "offers {x} for a good price",
            "offers to sell {x}",
            "has an offer of {x}, in words or with a picture of it",
        ),
        (
            "Does it sell {x}?",
            "Is {x} for sale here?",
            "Does this post offer {x} for a price?",
            "Is there an offer of {x} in this post?",
            "Does the post offer to sell {x}?",
        ),
    ),
}
# A title and a question that leave it to the rest of the policy what they mean.
VAGUE_TITLES, VAGUE_QUESTIONS = ("{x}", "No {x}", "The rule about {x}"), ("Does this post break the rule?",)
# Never trained on, none of the three parts; made of words that are.
UNSEEN = {
    Kind.EITHER: Phrasing(
        ("{x} shown or mentioned", "Any {x}"),
        ("shows {x} or talks about it", "has any {x}, in its text or in a picture"),
        ("Does the text or the picture contain {x}?", "Can {x} be seen, or does the text talk about it?"),
    ),
    Kind.PICTURE: Phrasing(
        ("{x} seen in a picture", "{x} shown in pictures"),
        ("has {x} shown in its picture", "contains a picture with {x}"),
        ("Does the picture contain {x}?", "Is this a picture of {x}?"),
    ),
    Kind.TEXT: Phrasing(
        ("{x} mentioned in texts", "Texts about {x}"),
        ("has a text about {x}", "says {x} in its text"),
        ("Does the text say something about {x}?", "Is the text about {x}?"),
    ),
    Kind.BOTH: Phrasing(
        ("{x} both shown and mentioned", "Pictures of {x} with talk about {x}"),
        ("mentions {x} and shows it in a picture", "contains {x} in its text and in its picture"),
        ("Does the text talk about {x} and the picture show it?", "Is {x} both mentioned and shown?"),
    ),
    Kind.OFFER: Phrasing(
        ("Any sale of {x}", "{x} for money"),
        ("has {x} for sale", "sells {x} for money"),
        ("Does this post sell {x} or offer it for money?", "Is this post about {x} for sale?"),
    ),
}


@dataclass(frozen=True, slots=True)
class Rule:
    """A policy's meaning. Subjects: one thing or group, or two of which either counts; or one made-up word, and then
    `defined` has the things that it stands for."""

    kind: Kind
    subjects: tuple[str, ...]
    defined: tuple[str, ...] = ()

    def broken_by(self, truth: Truth) -> bool:
        return any(self._broken(truth, self.meaning(subject)) for subject in self.subjects)

    def meaning(self, subject: str) -> tuple[str, ...]:
        return self.defined if subject in MADE_UP else (subject,)

    def _broken(self, truth: Truth, meaning: tuple[str, ...]) -> bool:
        shows, mentions = truth.shows(*meaning), truth.mentions(*meaning)
        match self.kind:
            case Kind.EITHER:
                return shows or mentions
            case Kind.PICTURE:
                return shows
            case Kind.TEXT:
                return mentions
            case Kind.BOTH:
                return shows and mentions
            case Kind.OFFER:
                return truth.offers(*meaning)


def rule(
    random: Random,
    truth: Truth,
    *,
    groups: tuple[str, ...] | None = None,
    training: bool = True,
    made_up: float = 0.12,
) -> Rule:
    """A rule to ask of a post: broken in about half of the cases, else often by a little only.

    groups: ask about one of these instead of anything; the default leaves out those that training must not see.
    made_up: how many of the rules of training are about made-up words.
    """
    kind = random.choices(list(Kind), weights=(26, 22, 18, 14, 20))[0]
    if training and groups is None and random.random() < made_up:
        return _made_up(random, kind, truth, broken=random.random() < 0.5)
    group = groups is not None or random.random() < 0.35
    if group:
        pool = list(groups or (name for name in GROUPS if name not in HELD_OUT_GROUPS))
    else:
        pool = [thing.name for thing in THINGS]
    broken = random.random() < 0.5
    subject = _pick(random, kind, pool, truth, broken=broken)
    subjects = [subject]
    if groups is None and kind is not Kind.BOTH and random.random() < 0.12:
        other = _pick(random, kind, pool, truth, broken=False)
        pair = not group and held_out(BY_NAME[subject], BY_NAME[other])
        if other != subject and pair is not training:
            subjects.insert(random.randint(0, 1), other)
    return Rule(kind, tuple(subjects))


def _made_up(random: Random, kind: Kind, truth: Truth, *, broken: bool) -> Rule:
    """A rule about a word that stands for a few things of different groups, by which it is none of the groups."""
    things = [BY_NAME[_pick(random, kind, list(BY_NAME), truth, broken=broken)]]
    for _ in range(random.randint(1, 4)):
        another = random.choice(THINGS)
        if all(another.group != thing.group for thing in things) and allowed(things, another, training=True):
            things.append(another)
    return Rule(kind, (random.choice(MADE_UP),), tuple(thing.name for thing in things))


def _pick(random: Random, kind: Kind, pool: list[str], truth: Truth, *, broken: bool) -> str:
    fits = [name for name in pool if Rule(kind, (name,)).broken_by(truth) is broken]
    if not broken and random.random() < 0.6:
        near = truth.shown | truth.mentioned | truth.denied
        groups = (
            {BY_NAME[name].group for name in near if name in BY_NAME} | truth.named | (truth.denied & GROUPS.keys())
        )
        close = [
            name
            for name in fits
            if not near.isdisjoint(members(name))
            or name in groups
            or (name in BY_NAME and BY_NAME[name].group in groups)
        ]
        touched = [name for name in close if not near.isdisjoint(members(name)) or name in groups]
        fits = touched if touched and random.random() < 0.6 else close or fits
    return random.choice(fits or pool)


def phrase(random: Random, rule: Rule, *, unseen: bool = False, wide: bool = False) -> Policy:
    """The rule as a policy file says it.

    unseen: in a phrasing that training never saw; wide: in any that it may see.
    """
    phrasing = _any(random, rule.kind) if wide else (UNSEEN if unseen else TRAINED)[rule.kind]
    words = " or ".join(_word(random, subject) for subject in rule.subjects)
    clauses = [random.choice(phrasing.clauses).format(x=words)]
    if len(rule.subjects) == 2 and random.random() < 0.5:
        clauses = [random.choice(phrasing.clauses).format(x=word) for word in words.split(" or ")]
    definitions = {}
    for subject in rule.subjects:
        if subject in MADE_UP or (subject in GROUPS and random.random() < 0.5):
            names = [BY_NAME[name].many for name in rule.defined or members(subject)]
            random.shuffle(names)
            definitions[subject] = " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))
    return Policy(
        id="rule",
        version=1,
        title=random.choice(phrasing.titles).format(x=words),
        definitions=definitions,
        question=random.choice(phrasing.questions).format(x=words),
        violates=tuple(Clause(id=f"W{number}", text=text) for number, text in enumerate(clauses, 1)),
        thresholds=PolicyThresholds(review=0.5, remove=0.9),
    )


def _any(random: Random, kind: Kind) -> Phrasing:
    titles, clauses, questions = (random.choice((TRAINED, WIDER))[kind] for _ in range(3))
    return Phrasing(
        titles=titles.titles if random.random() < 0.75 else VAGUE_TITLES,
        clauses=clauses.clauses,
        questions=questions.questions if random.random() < 0.9 else VAGUE_QUESTIONS,
    )


def _word(random: Random, subject: str) -> str:
    if subject not in BY_NAME:
        return subject
    return random.choice((BY_NAME[subject].many, BY_NAME[subject].many, BY_NAME[subject].one))
