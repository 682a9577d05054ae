"""A wrong setting is named together with the mistake, never with its value."""

from __future__ import annotations

from pathlib import Path

import pytest

from moderation import settings
from moderation.cli.settings import described
from moderation.errors import ConfigError

A_STORE = {
    "MODERATION_MEDIA__STORES__NAME__URL": "s3://bucket",
    "MODERATION_MEDIA__STORES__NAME__ACCESS_KEY_ID": "id",
    "MODERATION_MEDIA__STORES__NAME__SECRET_FILE": "/secret",
}


def refused(**environment: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        settings.load(environment)
    return str(caught.value).splitlines()


def test_nothing_set_gives_the_defaults() -> None:
    assert settings.load({}) == settings.Settings()


def test_values_come_from_the_environment() -> None:
    loaded = settings.load(
        {
            "MODERATION_KAFKA__BOOTSTRAP": "broker:9093",
            "MODERATION_MODEL": "fake",
            "MODERATION_MEDIA__ROOTS": "/a:/b",
            "MODERATION_KAFKA__SASL_PASSWORD": "secret",
            "MODERATION_TEST_SEED": "7",
            "PATH": "/bin",
        }
    )
    assert loaded.kafka.bootstrap == "broker:9093"
    assert loaded.model.name == "fake"
    assert loaded.media.roots == (Path("/a"), Path("/b"))
    assert loaded.kafka.sasl_password.get_secret_value() == "secret"
    assert "secret" not in repr(loaded)


def test_dead_letters_have_a_default_name() -> None:
    loaded = settings.load({"MODERATION_KAFKA__GROUP": "g", "MODERATION_KAFKA__POSTS_TOPIC": "p"})
    assert loaded.kafka.dead_letters == "p.g.dlq"
    assert settings.load({"MODERATION_KAFKA__DEAD_LETTER_TOPIC": "d"}).kafka.dead_letters == "d"


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("MODERATION_KAFKA__BOOTSTRP", "x", "did you mean MODERATION_KAFKA__BOOTSTRAP?"),
        ("MODERATION_MODL", "demo", "did you mean MODERATION_MODEL?"),
        ("MODERATION_COLOUR", "x", "`moderation settings --all` lists all settings"),
        ("MODERATION_MEDIA__MAX_SIDE", "100", "there is no such setting"),
        ("MODERATION_WORKER__MAX_PARTITION_IN_FLIGHT", "100", "did you mean MODERATION_WORKER__MAX_IN_FLIGHT?"),
        ("MODERATION_API__WATCH_BUFFER", "100", "there is no such setting"),
        ("MODERATION_MEDIA__MAX_IMAGES", "secret", "valid integer"),
        ("MODERATION_MEDIA__MAX_IMAGES", "-1", "greater than or equal to 0"),
        ("MODERATION_KAFKA__SECURITY_PROTOCOL", "secret", "'PLAINTEXT', 'SSL'"),
        ("MODERATION_KAFKA__VERDICT_FORMAT", "secret", "'json' or 'protobuf'"),
        ("MODERATION_KAFKA", "secret", "MODERATION_KAFKA"),
        ("MODERATION_TRACES__SAMPLE_RATIO", "2", "less than or equal to 1"),
        ("MODERATION_WORKER__POST_TIMEOUT_S", "480", "must be longer than 480 s"),
    ],
)
def test_a_wrong_setting_is_named(variable: str, value: str, message: str) -> None:
    (line,) = refused(**{variable: value})
    assert line.startswith(variable)
    assert message in line
    assert "secret" not in line


def test_all_wrong_settings_are_named_at_once() -> None:
    lines = refused(MODERATION_MEDIA__MAX_IMAGES="x", MODERATION_WORKER__BATCH_TOKENS="0")
    assert [line.split(":")[0] for line in lines] == ["MODERATION_MEDIA__MAX_IMAGES", "MODERATION_WORKER__BATCH_TOKENS"]


def test_a_rule_over_two_settings() -> None:
    (line,) = refused(MODERATION_MODEL__WINDOW_TOKENS="64", MODERATION_MODEL__WINDOW_OVERLAP="40")
    assert line == "MODERATION_MODEL: window_overlap must be at most half of window_tokens"


def test_a_value_for_a_whole_group_is_refused() -> None:
    lines = refused(MODERATION_LOG="info", MODERATION_LOG__LEVEL="info")
    assert "MODERATION_LOG is one value, not a group" in lines[0]


def test_every_setting_is_described_and_can_be_set() -> None:
    listed = list(described())
    assert len({setting.variable for setting in listed}) == len(listed) > 90
    for setting in listed:
        assert setting.description, setting.variable
        assert setting.group, setting.variable
        if setting.default:
            settings.load(A_STORE | {setting.variable: setting.default})


def test_every_number_has_a_unit() -> None:
    numbers = {variable for variable, _, field in settings.fields() if field.annotation in (int, float, int | None)}
    assert len(numbers) > 50
    assert not {setting.variable for setting in described() if setting.variable in numbers and not setting.unit}


def test_a_first_deployment_sets_a_short_list() -> None:
    basic = {setting.variable for setting in described() if setting.basic}
    assert {"MODERATION_KAFKA__BOOTSTRAP", "MODERATION_POLICIES", "MODERATION_MODEL__NAME"} <= basic
    assert 12 <= len(basic) <= 20


def test_one_partition_takes_half_of_the_posts_in_progress() -> None:
    limits = [settings.WorkerSettings(max_in_flight=count).max_partition_in_flight for count in (1, 5, 256)]
    assert limits == [1, 2, 128]


def test_traces_go_over_http() -> None:
    (line,) = refused(MODERATION_TRACES__ENDPOINT="secret:4317")
    assert line == "MODERATION_TRACES: endpoint must be an http or https URL"


def test_two_deployments_on_one_machine_have_two_views() -> None:
    ports = ("localhost:9092", "localhost:9093")
    first, second = (settings.load({"MODERATION_KAFKA__BOOTSTRAP": port}).view_file for port in ports)
    other = settings.load({"MODERATION_KAFKA__VERDICTS_TOPIC": "others"}).view_file
    assert len({first, second, other}) == 3
    assert first == settings.load({}).view_file, "the same deployment finds its view again"
    assert settings.load({"MODERATION_API__VIEW": "/data/view.sqlite"}).view_file == Path("/data/view.sqlite")
