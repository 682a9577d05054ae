"""Which two language tags may be of one text, by BCP 47."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moderation.policies.languages import can_meet, is_valid, tag_for

TAGS = st.sampled_from(
    ["en", "eng", "en-US", "EN_us", "und", "zxx", "x-a", "zh-Hant-TW", "cmn", "sr-Latn", "qaa", "i-a"]
)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("en", "en-GB"),
        ("en", "eng"),
        ("en", "EN_us"),
        ("en-US", "en"),
        ("en-US", "eng-us"),
        ("en-US", " en-us "),
        ("en-GB", "en-UK"),
        ("en", "en-Latn-US-x-slang"),
        ("zh", "cmn"),  # a language of a macrolanguage, as an extended language, and two of one
        ("zh", "zh-yue"),
        ("zh-Hant", "yue"),
        ("fr", "eng-USA"),  # a country of three letters is none
        ("cmn", "yue"),
        ("nb", "no"),
        ("sr", "hr"),
        ("sr-Cyrl", "sh"),  # CLDR has sr-Latn for it
        ("he", "iw"),  # deprecated
        ("ro", "mo"),
        ("tlh", "i-klingon"),
        ("de-DE", "de-DD"),
        ("ru-UA", "ru-SU"),  # a country that is now several
        ("es-MX", "es-419"),  # a part of the world
        ("en-GB", "en-001"),
        ("en-GB", "en-ZZ"),
        ("zh-Hans", "zh-TW"),  # names no script
        ("zh-Hans", "zh-Hani"),  # a script that holds another
        ("ja-Kana", "ja-Jpan"),
        ("fa-Arab", "fa-Aran"),
        ("de", "gem"),  # a family of languages
        *(("en", tag) for tag in ("und", "mul", "mis", "zxx", "qaa", "qab-DE", "x-klingon", "und-Cyrl")),
        *(
            ("en", tag)
            for tag in ("", "English", "xx", "cn", "de--AT", "de_AT.UTF-8", "1", "\0", "dе", "d" * 128, "🙂")
        ),
    ],
)
def test_a_tag_that_may_be_of_the_language_is_not_excluded(one: str, other: str) -> None:
    assert can_meet(one, other)
    assert can_meet(other, one)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("en", "de"),
        ("eng", "deu-AT"),
        ("en-US", "en-GB"),
        ("pt-BR", "pt_pt"),
        ("zh-Hans", "zh-Hant"),
        ("zh-Hans-CN", "cmn-Hant-CN"),
        ("sr-Latn", "sr-Cyrl"),
        ("zh", "ja"),
        ("sq-XK", "sq-AL"),
        ("uk", "en-UK"),
    ],
)
def test_a_tag_that_cannot_be_of_the_language_is_excluded(one: str, other: str) -> None:
    assert not can_meet(one, other)
    assert not can_meet(other, one)


@given(st.text() | TAGS, st.text() | TAGS)
def test_no_label_fails_and_order_does_not_count(one: str, other: str) -> None:
    assert can_meet(one, other) is can_meet(other, one)
    assert can_meet(one, one)


@pytest.mark.parametrize(
    ("words", "tag"),
    [
        ("German", "de"),
        ("english", "en"),
        ("Deutsch", "de"),
        ("中文", "zh"),
        ("Brazilian Portuguese", "pt"),
        ("English (US)", "en"),
        ("de_AT", "de-AT"),
        ("eng_us", "en-US"),
        ("eng-USA", "en"),
        ("cn", "zh"),
        ("JP", "ja"),
        ("Elvish", ""),
        ("xx", ""),
    ],
)
def test_the_tag_that_was_meant(words: str, tag: str) -> None:
    assert tag_for(words) == tag
    assert not tag or is_valid(tag)
