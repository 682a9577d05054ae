"""A setting that is wrong is named, with what is wrong, and never its value."""

from __future__ import annotations

from pathlib import Path

import pytest

from moderation import settings
from moderation.errors import ConfigError


def refused(**environment: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        settings.load(environment)
    return str(caught.value).splitlines()


def test_nothing_set_gives_the_defaults() -> None:
    assert settings.load({}) == settings.Settings()


def test_values_come_from_the_environment() -> None:
    some = settings.load(
        {
            "MODERATION_KAFKA__BOOTSTRAP": "broker:9093",
            "MODERATION_MODEL": "fake",
            "MODERATION_MEDIA__ROOTS": "/a:/b",
            "MODERATION_KAFKA__SASL_PASSWORD": "secret",
            "MODERATION_TEST_SEED": "7",
            "PATH": "/bin",
        }
    )
    assert some.kafka.bootstrap == "broker:9093"
    assert some.model.name == "fake"
    assert some.media.roots == (Path("/a"), Path("/b"))
    assert some.kafka.sasl_password.get_secret_value() == "secret"
    assert "secret" not in repr(some)


def test_dead_letters_have_a_default_name() -> None:
    some = settings.load({"MODERATION_KAFKA__GROUP": "g", "MODERATION_KAFKA__POSTS_TOPIC": "p"})
    assert some.kafka.dead_letters == "p.g.dlq"
    assert settings.load({"MODERATION_KAFKA__DEAD_LETTER_TOPIC": "d"}).kafka.dead_letters == "d"


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("MODERATION_KAFKA__BOOTSTRP", "x", "did you mean MODERATION_KAFKA__BOOTSTRAP?"),
        ("MODERATION_COLOUR", "x", "`moderation settings` lists them"),
        ("MODERATION_MEDIA__MAX_IMAGES", "secret", "valid integer"),
        ("MODERATION_MEDIA__MAX_IMAGES", "-1", "greater than or equal to 0"),
        ("MODERATION_KAFKA__SECURITY_PROTOCOL", "secret", "'PLAINTEXT', 'SSL'"),
        ("MODERATION_KAFKA__VERDICT_FORMAT", "secret", "'json' or 'protobuf'"),
        ("MODERATION_KAFKA", "secret", "MODERATION_KAFKA"),
        ("MODERATION_TRACES__SAMPLE_RATIO", "2", "less than or equal to 1"),
        ("MODERATION_WORKER__POST_TIMEOUT_S", "480", "must be longer than the deadlines on a post's way together"),
    ],
)
def test_a_wrong_setting_is_named(variable: str, value: str, told: str) -> None:
    (line,) = refused(**{variable: value})
    assert line.startswith(variable)
    assert told in line
    assert "secret" not in line


def test_all_wrong_settings_are_named_at_once() -> None:
    lines = refused(MODERATION_MEDIA__MAX_IMAGES="x", MODERATION_WORKER__BATCH_TOKENS="0")
    assert [line.split(":")[0] for line in lines] == ["MODERATION_MEDIA__MAX_IMAGES", "MODERATION_WORKER__BATCH_TOKENS"]


def test_a_rule_over_two_settings() -> None:
    (line,) = refused(MODERATION_MODEL__WINDOW_TOKENS="64", MODERATION_MODEL__WINDOW_OVERLAP="40")
    assert line == "MODERATION_MODEL: window_overlap must be at most half of window_tokens"


def test_a_value_where_a_group_is() -> None:
    lines = refused(MODERATION_LOG="info", MODERATION_LOG__LEVEL="info")
    assert "MODERATION_LOG is one value, not a group" in lines[0]


def test_every_knob_is_described_and_can_be_set() -> None:
    knobs = list(settings.knobs())
    assert [variable for variable, _, _ in knobs if variable == "MODERATION_KAFKA__BOOTSTRAP"]
    described = {"MODERATION_KAFKA__SECURITY_PROTOCOL", "MODERATION_KAFKA__SASL_MECHANISM"}
    described |= {"MODERATION_KAFKA__SASL_USERNAME", "MODERATION_KAFKA__SASL_PASSWORD", "MODERATION_LOG__LEVEL"}
    for variable, default, description in knobs:
        assert description or variable in described, variable
        if default and default != "()":
            settings.load({variable: default})


def test_traces_go_over_http() -> None:
    (line,) = refused(MODERATION_TRACES__ENDPOINT="secret:4317")
    assert line == "MODERATION_TRACES: endpoint must be an http or https URL"
