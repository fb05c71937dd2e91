"""Configuration: one reader, every mistake at once, and the rules of a start outside development."""

import dataclasses
from pathlib import Path

import pytest
from quorra_server.config import ConfigurationError, development, load, refusals
from quorra_server.domain.limits import RANGES, setting_of

LONG_KEY = "k" * 32
GOOD = {
    "DATABASE_URL": "postgres://u:secret@db:5432/q?sslmode=disable",
    "QUORRA_API_KEY": LONG_KEY,
    "QUORRA_HTTP_ADDR": "127.0.0.1:8080",
    "QUORRA_GRPC_ADDR": "127.0.0.1:50051",
}


def test_defaults_are_the_contracts() -> None:
    config, _ = load({})

    assert (":8080", ":50051", "info") == (str(config.listen.http), str(config.listen.grpc), config.log_level)
    assert (7, 30) == (config.timing.retention_succeeded_days, config.timing.retention_dead_days)
    assert 1024 * 1024 == config.limits.payload_bytes_max


def test_all_mistakes_are_reported_at_once_with_name_value_and_remedy() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(
            {
                "QUORRA_HTTP_ADDR": "8080",
                "QUORRA_LOG_LEVEL": "loud",
                "QUORRA_POOL_CONNECTIONS": "0",
                "QUORRA_GRACE": "soon",
                "DATABASE_URL": "mysql://x",
                "QUORRA_HTTP_ADR": ":1",
            }
        )

    text = str(caught.value)
    assert 6 == len(caught.value.mistakes)
    assert "QUORRA_HTTP_ADDR='8080'" in text
    assert "1 to 500" in text
    assert "did you mean QUORRA_HTTP_ADDR?" in text
    assert "mysql" not in text


def test_every_limit_is_a_setting_with_a_range() -> None:
    config, _ = load({setting_of(name): str(high) for name, (_, high) in RANGES.items()})

    assert {name: high for name, (_, high) in RANGES.items()} == dataclasses.asdict(config.limits)
    for name, (low, high) in RANGES.items():
        for outside in (low - 1, high + 1):
            with pytest.raises(ConfigurationError, match=rf"{setting_of(name)}=.*from {low} to {high}"):
                load({setting_of(name): str(outside)})


@pytest.mark.parametrize(
    "settings",
    [
        {"QUORRA_LEASE_SECONDS_MIN": "60", "QUORRA_LEASE_SECONDS_MAX": "30"},
        {"QUORRA_PAYLOAD_BYTES_MAX": "4096", "QUORRA_BATCH_BYTES_MAX": "2048"},
        {"QUORRA_BATCH_BYTES_MAX": "9000000", "QUORRA_BODIES_BYTES_MAX": "8000000"},
    ],
)
def test_limits_that_contradict_each_other_are_refused(settings: dict[str, str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(settings)

    (mistake,) = caught.value.mistakes
    assert all(name in mistake for name in settings)


@pytest.mark.parametrize(
    ("setting", "value"), [("QUORRA_POLL_INTERVAL", "0s"), ("QUORRA_ACQUIRE_TIMEOUT", "0s"), ("QUORRA_GRACE", "9d")]
)
def test_durations_have_bounds(setting: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"{setting}='{value}': use .+s to .+s"):
        load({setting: value})


def test_durations_have_units() -> None:
    config, _ = load({"QUORRA_GRACE": "2m", "QUORRA_POLL_INTERVAL": "500ms"})

    assert (120.0, 0.5) == (config.timing.grace_seconds, config.timing.poll_seconds)


def test_print_config_masks_secrets_and_says_where_a_value_came_from(tmp_path: Path) -> None:
    file = tmp_path / "quorra.toml"
    file.write_text('QUORRA_LOG_LEVEL = "debug"\n')

    _, settings = load({**GOOD, "QUORRA_CONFIG": str(file)})

    shown = {setting.name: (setting.shown, setting.source) for setting in settings}
    assert ("debug", "file") == shown["QUORRA_LOG_LEVEL"]
    assert ("127.0.0.1:8080", "environment") == shown["QUORRA_HTTP_ADDR"]
    assert "secret" not in str(shown)
    assert LONG_KEY not in str(shown)


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"QUORRA_API_KEY": ""}, "not set"),
        ({"QUORRA_API_KEY": "short"}, "shorter"),
        ({"QUORRA_API_KEY": "change-me"}, "sample"),
        ({"QUORRA_AUTH": "off"}, "development only"),
        ({"QUORRA_HTTP_ADDR": ":8080"}, "clear text"),
        ({"QUORRA_GRPC_ADDR": "0.0.0.0:50051"}, "clear text"),
    ],
)
def test_outside_development_an_unsafe_start_is_refused(changes: dict[str, str], word: str) -> None:
    config, _ = load({**GOOD, **changes})

    reasons = refusals(config)

    assert 1 == len(reasons)
    assert word in reasons[0]


def test_a_safe_start_and_a_development_start_are_not_refused() -> None:
    assert [] == refusals(load(GOOD)[0])
    assert [] == refusals(load({**GOOD, "QUORRA_HTTP_ADDR": ":8080", "QUORRA_BEHIND_TLS_PROXY": "on"})[0])
    assert [] == refusals(load({"QUORRA_ENV": "dev"})[0])


def test_development_binds_loopback_and_makes_a_random_key() -> None:
    first, second = development({"QUORRA_HTTP_ADDR": ":9000"}), development({})

    assert "127.0.0.1:9000" == first["QUORRA_HTTP_ADDR"]
    assert first["QUORRA_API_KEY"] != second["QUORRA_API_KEY"]
    assert "mine" == development({"QUORRA_API_KEY": "mine"})["QUORRA_API_KEY"]
