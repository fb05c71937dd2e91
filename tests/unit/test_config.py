"""Configuration: one reader, every mistake at once, and the rules of a start outside development."""

import dataclasses
from pathlib import Path

import pytest
from quorra_server.config import ConfigurationError, environment_of, load, refusals
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


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_line_end_behind_the_key_is_not_part_of_it(end: str) -> None:
    config, _ = load({"QUORRA_API_KEY": f"{LONG_KEY}{end}"})

    assert LONG_KEY == config.security.api_key


@pytest.mark.parametrize(
    "key", [f"{LONG_KEY} {LONG_KEY}", f"{LONG_KEY}\n{LONG_KEY}", f"{LONG_KEY}é", "\n", "\x7f" * 32]
)
def test_a_key_that_no_client_can_send_is_refused_and_not_shown(key: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        load({"QUORRA_API_KEY": key})

    assert ["QUORRA_API_KEY='********': use letters, digits and marks of ASCII, without blanks."] == (
        caught.value.mistakes
    )


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
    ("url", "shown"),
    [
        ("postgres://u:p%23ss@a:1,b:2/q?target_session_attrs=read-write", "postgres://a:1,b:2/********"),
        ("postgres://db/q?user=u&password=pass", "postgres://db/********"),
        ("postgresql://u:pass@[::1]:5432/q", "postgresql://[::1]:5432/********"),
        ("postgresql://u:pass@/q?host=/run/postgresql&port=5432", "postgresql:///********"),
    ],
)
def test_of_a_url_only_the_scheme_and_the_hosts_are_shown(url: str, shown: str) -> None:
    _, settings = load({"DATABASE_URL": url})

    assert [shown] == [setting.shown for setting in settings if setting.name == "DATABASE_URL"]


@pytest.mark.parametrize("setting", ["DATABASE_URL", "REDIS_URL"])
@pytest.mark.parametrize("mark", ["#", "/", "?", "[", "]", "@", "\N{ACCOUNT OF}"])
@pytest.mark.parametrize("half", ["xyz", "12"])
def test_a_password_that_a_url_cannot_hold_is_refused_with_the_remedy_and_not_shown(
    setting: str, mark: str, half: str
) -> None:
    scheme = {"DATABASE_URL": "postgres", "REDIS_URL": "redis"}[setting]

    with pytest.raises(ConfigurationError) as caught:
        load({setting: f"{scheme}://u:{half}{mark}zyx@host/0"})

    (mistake,) = caught.value.mistakes
    assert mistake.startswith(f"{setting}='********': use {scheme}://")
    assert "# @ [ ] in a user, a password or a parameter are written %2F %3F %23" in mistake
    assert not any(part in mistake for part in ("xyz", "zyx", ":12"))


@pytest.mark.parametrize(
    ("setting", "url"),
    [
        ("DATABASE_URL", "postgres://host:abc/q"),
        ("DATABASE_URL", "postgres://host:65536/q"),
        ("DATABASE_URL", "postgres://a:5432,b:abc/q"),
        ("DATABASE_URL", "postgres:///q?host=a&port=abc"),
        ("DATABASE_URL", "postgres://[::1/q"),
        ("REDIS_URL", "redis://host:abc/0"),
    ],
)
def test_a_port_in_a_url_is_a_number(setting: str, url: str) -> None:
    with pytest.raises(ConfigurationError, match=rf"^{setting}='\*+': use .+ up to 65535"):
        load({setting: url})


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
    first, second = (load({"QUORRA_HTTP_ADDR": ":9000"}, is_development=True)[0] for _ in range(2))

    assert ("127.0.0.1:9000", "127.0.0.1:50051") == (str(first.listen.http), str(first.listen.grpc))
    assert first.is_development
    assert first.security.api_key != second.security.api_key
    assert "mine" == load({"QUORRA_API_KEY": "mine"}, is_development=True)[0].security.api_key


def test_what_is_empty_is_not_set_so_development_stays_on_loopback_and_has_a_key(tmp_path: Path) -> None:
    file = tmp_path / "quorra.toml"
    file.write_text('QUORRA_GRPC_ADDR = ""\nQUORRA_API_KEY = ""\n')

    config, _ = load({"QUORRA_CONFIG": str(file), "QUORRA_HTTP_ADDR": "", "QUORRA_API_KEY": ""}, is_development=True)

    assert config.listen.http.is_loopback
    assert config.listen.grpc.is_loopback
    assert config.security.api_key


def test_the_file_comes_before_the_defaults_of_development(tmp_path: Path) -> None:
    file = tmp_path / "quorra.toml"
    file.write_text(
        'DATABASE_URL = "postgres://db/q"\nQUORRA_API_KEY = "mine"\n'
        'QUORRA_HTTP_ADDR = ":9000"\nQUORRA_GRPC_ADDR = "10.0.0.1:9001"\n'
    )

    config, settings = load({"QUORRA_CONFIG": str(file)}, is_development=True)

    assert ("postgres://db/q", "mine") == (config.database.dsn, config.security.api_key)
    assert ("127.0.0.1:9000", "10.0.0.1:9001") == (str(config.listen.http), str(config.listen.grpc))
    assert {"DATABASE_URL", "QUORRA_API_KEY", "QUORRA_HTTP_ADDR", "QUORRA_GRPC_ADDR"} == {
        setting.name for setting in settings if setting.source == "file"
    }


def test_another_process_comes_to_what_development_settled() -> None:
    settled, _ = load({"QUORRA_HTTP_ADDR": ":9000", "DATABASE_URL": "postgres://u:p%23@db/q"}, is_development=True)

    child, _ = load({**environment_of(settled), "QUORRA_NODE_NAME": settled.node})

    assert settled == child
