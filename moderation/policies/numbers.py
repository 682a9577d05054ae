"""What an author may not have meant in the thresholds, the `on_error` and the scope of a policy."""

from __future__ import annotations

import re
from collections.abc import Iterator

from langcodes import Language

from moderation.policies import languages
from moderation.policies.loading import Read
from moderation.policies.mistakes import Kind, Location, Mistake, located
from moderation.policies.prose import unseen
from moderation.policies.schema import EVERY, Policy, PolicyThresholds, Scope, folded
from moderation.types import Outcome

Found = tuple[Location, str]

NEVER = 0.9999  # a probability that models practically never give
CLOSE = 0.01  # thresholds that leave practically no room between them


def warnings(read: Read) -> Iterator[Mistake]:
    """What its author may not have meant, thresholds first."""
    policy, document = read.policy, read.document
    scope = policy.applies_to
    found = (
        *_of_thresholds(policy.thresholds),
        *_of_missing_scores(policy),
        *_of_media(policy),
        *_of_languages(scope),
        *_of_surfaces(scope),
    )
    for location, problem in found:
        yield located(document.path, document.node, location, problem, kind=Kind.WARNING)


def _of_thresholds(thresholds: PolicyThresholds) -> Iterator[Found]:
    review, remove, mass = thresholds.review, thresholds.remove, thresholds.mass
    if review == 0:
        yield ("thresholds", "review"), "0 makes every post REVIEW: write the lowest P(Yes) that a person should see"
    elif review >= 0.99:
        yield ("thresholds", "review"), f"practically no post reaches {review:g}: write a lower number, such as 0.5"
    if remove >= NEVER:
        yield (
            ("thresholds", "remove"),
            f"practically no post reaches {remove:g}, so none is REMOVE: write a lower number",
        )
    elif remove < 0.5:
        yield (
            ("thresholds", "remove"),
            f"at {remove:g} posts are REMOVE of which the model says rather No: write more than 0.5",
        )
    if remove - review < CLOSE:
        yield (
            ("thresholds", "review"),
            f"{review:g} is so close to remove that practically no post is REVIEW: write less",
        )
    if mass == 0:
        yield ("thresholds", "mass"), "0 takes any score for an answer, even where the model gave none: write 0.5"
    elif mass >= 0.99:
        yield ("thresholds", "mass"), f"practically no answer reaches {mass:g}, so posts are UNDETERMINED: write 0.5"


def _of_missing_scores(policy: Policy) -> Iterator[Found]:
    if policy.outcome_on_error is Outcome.REMOVE:
        yield (
            ("on_error",),
            "remove takes down posts with broken pictures, long texts or unreadable records: write review",
        )


def _of_media(policy: Policy) -> Iterator[Found]:
    if policy.applies_to.media == ("text",) and re.search(
        r"(?i)\b(picture|image|photo|screenshot)s?\b", policy.question
    ):
        yield (
            ("applies_to", "media"),
            "the question is about pictures, and no post of pictures alone is asked: add image",
        )


def _of_languages(scope: Scope) -> Iterator[Found]:
    tags = [tag for tag in scope.languages if tag != "*"]
    if tags and "*" in scope.languages:
        yield ("applies_to", "languages"), f"'*' covers all, so {', '.join(tags)} has no effect: delete one of them"
        return
    for place, tag in enumerate(scope.languages):
        at: Location = ("applies_to", "languages", place)
        if tag == "*":
            continue
        meant = languages.LANGUAGE_OF.get(tag, "")
        named = languages.named(tag)
        if meant and (name := languages.name_of(tag)):
            yield at, f"{tag} is the tag of {name}: write {meant}, or {tag.lower()} if you mean {name}"
        elif tag.casefold() in EVERY:
            yield at, f"{tag} is the tag of {languages.name_of(tag)}: write '*' for all languages"
        elif named is None:
            yield at, f"{tag} excludes no post, because it may be any language: name a language, or delete languages"
        else:
            yield from _of_language(scope, place, tag, named)


def _of_language(scope: Scope, place: int, tag: str, named: languages.Named) -> Iterator[Found]:
    at: Location = ("applies_to", "languages", place)
    for other in scope.languages[:place]:
        if Language.get(other).to_tag() == Language.get(tag).to_tag():
            yield at, f"{tag} says the same as {other}: delete one"
            return
    wider = [other for other in scope.languages if other != tag and _covers(other, named)]
    if wider:
        yield at, f"{wider[0]} covers {tag}: delete one of them"
        return
    regions = {entry.region for entry in map(languages.named, scope.languages) if entry}
    general = Language.get(tag).language
    if Language.get(tag).territory and not named.region:
        yield at, f"{tag} names no single country, so it counts as {general}: write {general}"
    elif named.region and len(regions) == 1:
        yield (
            at,
            f"posts in {_name(tag)} of other countries are excluded: write {general} if the country does not matter",
        )


def _covers(tag: str, named: languages.Named) -> bool:
    other = languages.named(tag)
    if other is None or other.primary != named.primary or Language.get(tag).language is None:
        return False
    return (not other.region and not other.scripts) and bool(named.region or named.scripts)


def _name(tag: str) -> str:
    return languages.name_of(Language.get(tag).language or "") or tag


def _of_surfaces(scope: Scope) -> Iterator[Found]:
    names = [surface for surface in scope.surfaces if surface != "*"]
    if names and "*" in scope.surfaces:
        yield ("applies_to", "surfaces"), f"'*' covers all, so {', '.join(names)} has no effect: delete one of them"
    seen: dict[str, str] = {}
    for place, surface in enumerate(scope.surfaces):
        at: Location = ("applies_to", "surfaces", place)
        if surface == "*":
            continue
        if folded(surface) in EVERY:
            yield at, f"{surface} is taken for the name of a surface: write '*' for all"
        elif "*" in surface:
            yield at, "* stands for all surfaces only by itself: name each surface"
        elif "," in surface or ";" in surface:
            yield at, f"this is one surface with a comma in its name: write a list, as in [{surface.replace(';', ',')}]"
        if sign := unseen(surface):
            yield at, f"it has a character that nobody sees (U+{ord(sign):04X}): delete it, or type the name again"
        if earlier := seen.get(folded(surface)):
            yield at, f"{surface} says the same as {earlier}: delete one"
        seen.setdefault(folded(surface), surface)
