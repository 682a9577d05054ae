"""Language tags by the rules of BCP 47: which are valid, and which two may be of one language.

A tag that may be any language, or of which nobody knows what it means, meets every other. So a label that is not
understood never switches a policy off. langcodes has the rules and the registry of IANA.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from langcodes import Language, tag_is_valid
from langcodes.registry_parser import parse_registry

ANY_LANGUAGE = ("collection", "special", "private-use")  # scopes of the registry: families of languages, und, zxx, qaa
KEPT = ("Scope", "Macrolanguage", "Description", "Deprecated", "Preferred-Value")  # of the registry's fields
# Regions that are no country: numbers are parts of the world. XK is the only private code with a common meaning.
NO_COUNTRY = re.compile(r"\d{3}|EU|EZ|UN|AA|Q[M-Z]|X[A-JL-Z]|ZZ")
NO_SCRIPT = re.compile(r"Z[a-z]{3}|Qa[a-b][a-x]")
# Scripts that hold others, or are a style of another. Two scripts differ if they share none.
SCRIPTS = {
    "Jpan": "Hani Hans Hant Hira Kana",
    "Hrkt": "Hira Kana",
    "Kore": "Hang Hani Hans Hant",
    "Hanb": "Hani Hans Hant Bopo",
    "Hani": "Hani Hans Hant",
    "Jamo": "Hang",
    "Aran": "Arab",
    "Latf": "Latn",
    "Latg": "Latn",
    "Cyrs": "Cyrl",
    "Syre": "Syrc",
    "Syrj": "Syrc",
    "Syrn": "Syrc",
}


@dataclass(frozen=True, slots=True)
class Named:
    """What a tag says of a language. Empty: it says nothing of it."""

    primary: str  # the macrolanguage where it has one: zh for cmn and yue
    region: str
    scripts: frozenset[str]


def can_meet(one: str, other: str) -> bool:
    """Whether a text may have both tags: unless both are valid, and name other languages, regions or scripts."""
    if one == other:
        return True
    first, second = named(one), named(other)
    if first is None or second is None:
        return True
    if first.primary != second.primary:
        return False
    if first.region and second.region and first.region != second.region:
        return False
    return not (first.scripts and second.scripts and first.scripts.isdisjoint(second.scripts))


@lru_cache(maxsize=4096)  # the labels of posts are few, and who makes them up pays for them
def named(tag: str) -> Named | None:
    """What a tag says. None: it excludes nothing, because it is invalid, private, or of no one language."""
    tag = tag.strip()
    if not is_valid(tag):
        return None
    given, current = Language.get(tag, normalize=False), Language.get(tag)
    primary = current.language or "und"
    entry = _registry().get(("language", primary), {})
    if not entry or entry.get("Scope") in ANY_LANGUAGE:
        return None
    # Regions and scripts count as they are given: for `sh` langcodes has sr-Latn, and nobody has said Latn.
    region = _country(given.territory, current.territory)
    script = given.script.capitalize() if given.script and not NO_SCRIPT.fullmatch(given.script.capitalize()) else ""
    scripts = frozenset(SCRIPTS.get(script, script).split())
    return Named(entry.get("Macrolanguage", primary), region, scripts)


def is_valid(tag: str) -> bool:
    """Whether a tag is well-formed, and each of its parts is registered; `_` counts as `-`."""
    if not (tag.isascii() and tag_is_valid(tag)):
        return False
    extended = Language.get(tag, normalize=False).extlangs or ()  # eng-USA is none, although usa is a language
    return all(("extlang", part) in _registry() for part in extended)


def _country(given: str | None, current: str | None) -> str:
    """The country of today; empty for a part of the world, a private code, and a country that is now several."""
    if not given or not current or NO_COUNTRY.fullmatch(current.upper()):
        return ""
    entry = _registry().get(("region", given.upper()), {})
    is_split = "Deprecated" in entry and "Preferred-Value" not in entry
    return "" if is_split else current.upper()


def name_of(tag: str) -> str:
    """The English name of a tag's language, as Breton for br; empty if the registry has none."""
    entry = _registry().get(("language", tag.strip().lower().replace("_", "-").partition("-")[0]), {})
    return entry.get("Description", "")


@lru_cache(maxsize=1)
def _registry() -> Mapping[tuple[str, str], Mapping[str, str]]:
    """The registry of IANA, by kind and subtag; of several names the first. Read once, in some 30 ms."""
    return {
        (entry["Type"], entry["Subtag"]): {
            key: value[0] if isinstance(value, list) else value for key, value in entry.items() if key in KEPT
        }
        for entry in parse_registry()  # type: ignore[no-untyped-call]
        if entry["Type"] in ("language", "region", "extlang") and "Subtag" in entry
    }


def tag_for(words: str) -> str:
    """The tag that an author has meant by words: de for German, zh for CN, de-AT for de_AT; empty if none is clear."""
    word = re.split(r"[.@]", words.strip())[0].replace("_", "-")  # de_AT.UTF-8 of a system
    if word != words and is_valid(word):
        return Language.get(word).to_tag()
    if tag := LANGUAGE_OF.get(word.upper()) or _by_name().get(word.casefold()):
        return tag
    first = word.partition("-")[0]
    if first != word and is_valid(first):
        return Language.get(first).to_tag()
    names = (_by_name().get(part.casefold()) for part in re.findall(r"[^\W\d_]{4,}", word))
    return next((tag for tag in names if tag), "")


def _pairs(words: str) -> dict[str, str]:
    return dict(zip(words.split()[::2], words.split()[1::2], strict=True))


# Countries whose code is often written in place of a language's, with the tag that is meant.
LANGUAGE_OF = _pairs(
    "AT de-AT BR pt-BR CH de-CH CN zh CZ cs DK da GB en-GB GR el IL he IN hi JP ja KR ko MX es-MX SE sv TW zh-TW "
    "UA uk UK en-GB US en-US VN vi"
)
# Names of languages that the registry does not have, or not for this language.
NAMES = _pairs(
    "deutsch de english en español es français fr greek el farsi fa mandarin zh cantonese yue português pt "
    "nederlands nl flemish nl filipino fil punjabi pa odia or bangla bn norsk no svenska sv polski pl türkçe tr "
    "русский ru 中文 zh 日本語 ja 한국어 ko العربية ar italiano it swahili sw"
)


@lru_cache(maxsize=1)
def _by_name() -> Mapping[str, str]:
    """Tags by the English names of their languages, in lower case. Of two, the one with two letters."""
    languages = [
        (entry["Description"].casefold(), tag)
        for (kind, tag), entry in _registry().items()
        if kind == "language" and entry.get("Scope") not in ANY_LANGUAGE
    ]
    return dict(sorted(languages, key=lambda pair: -len(pair[1]))) | NAMES
