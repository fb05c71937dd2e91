"""Configuration: read once, here and nowhere else, into frozen sections; every mistake is reported at once."""

import difflib
import os
import re
import secrets
import tomllib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit, urlunsplit

from quorra_server.domain.limits import RANGES, Limits, setting_of

SAMPLE_KEYS = frozenset({"dev-secret-key", "change-me", "secret", "quorra", "test-key", "your-api-key"})
KEY_CHARACTERS_MIN = 32
LOG_LEVELS = ("debug", "info", "warning", "error")
UNITS_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
LOOPBACK = ("127.", "localhost", "::1", "[::1]")
MASK = "********"
PORT_MAX = 65_535
# A URL that can be read in one way only, so that what it has for hosts cannot be a part of its password.
HOST = r"(?:\[[\da-zA-Z:.%]+\]|[^\s:@/?#\[\],]+)(?::\d{0,5})?"
URL = re.compile(
    r"(?P<scheme>postgres|postgresql|redis|rediss|unix)://(?:[^@/?#\[\]]*@)?"
    rf"(?P<hosts>(?:{HOST}(?:,{HOST})*)?)(?:[/?][^@#]*)?",
    re.IGNORECASE | re.ASCII,
)


class ConfigurationError(Exception):
    """The configuration has mistakes; each is a sentence with the variable, the value and the remedy."""

    def __init__(self, mistakes: list[str]) -> None:
        """Take all mistakes."""
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen; an empty host means every interface."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Say whether only this machine can reach it."""
        return self.host.startswith(LOOPBACK)

    @property
    def bind_host(self) -> str:
        """The host to bind."""
        return self.host or "0.0.0.0"  # noqa: S104 - what `:8080` means


@dataclass(frozen=True, slots=True)
class Listen:
    """Where and how the server is reached."""

    http: Address
    grpc: Address
    behind_tls_proxy: bool


@dataclass(frozen=True, slots=True)
class DatabaseConfig:
    """How to reach PostgreSQL; an empty `dsn` means the embedded one.

    Attributes:
        fast_pool_connections: One half of them is for leases, the other one for settles and heartbeats.
    """

    dsn: str
    pool_connections: int
    fast_pool_connections: int
    acquire_seconds: float
    statement_seconds: float
    prepared_statements: bool
    notify: bool


@dataclass(frozen=True, slots=True)
class Security:
    """Who may do what."""

    api_key: str = field(repr=False)
    auth: bool
    metrics_open: bool
    health_open: bool


@dataclass(frozen=True, slots=True)
class Timing:
    """How long things take, in seconds unless the name says otherwise."""

    grace_seconds: float
    drain_delay_seconds: float
    poll_seconds: float
    retention_succeeded_days: int
    retention_dead_days: int
    connection_age_seconds: float


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that can be set."""

    environment: str
    log_level: str
    listen: Listen
    database: DatabaseConfig
    redis_url: str
    security: Security
    timing: Timing
    limits: Limits
    node: str

    @property
    def is_development(self) -> bool:
        """Say whether the strict rules of a start outside development are off."""
        return self.environment == "development"


@dataclass(frozen=True, slots=True)
class _Option:
    name: str
    default: str
    parse: Callable[[str], Any]
    is_secret: bool = False


def _duration(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        match = re.fullmatch(r"(\d{1,12}(?:\.\d{1,6})?)(ms|s|m|h|d)?", text, re.ASCII)
        if match is None:
            raise ValueError("use a number with a unit, such as 500ms, 30s, 5m or 2h")
        seconds = float(match[1]) * UNITS_SECONDS[match[2] or "s"]
        if not low <= seconds <= high:
            raise ValueError(f"use {low:g}s to {high:g}s")
        return seconds

    return parse


def _address(text: str) -> Address:
    host, colon, port = text.rpartition(":")
    if not colon or not _is_port(port):
        raise ValueError("use host:port or :port, such as :8080 or 127.0.0.1:8080")
    return Address(host, int(port))


def _loopback_address(text: str) -> Address:
    address = _address(text)
    return address if address.host else replace(address, host="127.0.0.1")


def _is_port(text: str) -> bool:
    return re.fullmatch(r"\d{1,5}", text, re.ASCII) is not None and int(text) <= PORT_MAX


def _flag(text: str) -> bool:
    if text.lower() in ("1", "true", "yes", "on"):
        return True
    if text.lower() in ("0", "false", "no", "off"):
        return False
    raise ValueError("use on or off")


def _number(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"\d{1,12}", text) or not low <= int(text) <= high:
            raise ValueError(f"use a whole number from {low} to {high}")
        return int(text)

    return parse


def _choice(*names: str) -> Callable[[str], str]:
    def parse(text: str) -> str:
        if text.lower() not in names:
            raise ValueError(f"use one of {', '.join(names)}")
        return text.lower()

    return parse


def _environment(text: str) -> str:
    return {"dev": "development"}.get(text.lower()) or _choice("production", "staging", "test", "development")(text)


def _key(text: str) -> str:
    """Return a key as clients send it, without the line end that a file of secrets leaves behind it."""
    key = text.rstrip("\r\n")
    # A client cannot send anything else in a header: HTTP cuts blanks off, and each language encodes the rest its way.
    if text and not re.fullmatch("[!-~]+", key):
        raise ValueError("use letters, digits and marks of ASCII, without blanks")
    return key


def _dsn(text: str) -> str:
    """Return a DSN as the driver takes it: only parameters that it knows, and one spelling of the scheme."""
    if not text:
        return ""
    parts = _url(text, ("postgres", "postgresql"), "postgres://user:password@host:5432/database?sslmode=disable")
    known = [(name, value) for name, value in parse_qsl(parts.query) if name not in ("channel_binding", "pgbouncer")]
    if not all(_is_port(port) for name, value in known if name == "port" for port in value.split(",")):
        raise ValueError(f"use whole numbers up to {PORT_MAX} in its parameter port")
    return urlunsplit(parts._replace(query=urlencode(known)))


def _redis_url(text: str) -> str:
    if text:
        _url(text, ("redis", "rediss", "unix"), "redis://host:6379/0")
    return text


def _url(text: str, schemes: Sequence[str], example: str) -> SplitResult:
    """Split a URL.

    Raises:
        ValueError: It can be read in more than one way, or in none. The sentence repeats nothing of it: any part may be
            one of its password. Nor does it have a cause, whose text repeats it.
    """
    with suppress(ValueError):
        parts = urlsplit(text)
        if parts.scheme in schemes and _is_clear(text):
            return parts
    raise ValueError(
        f"use {example}; a port is a number up to {PORT_MAX}, and / ? # @ [ ] in a user, a password or a parameter are "
        "written %2F %3F %23 %40 %5B %5D"
    )


def _is_clear(url: str) -> bool:
    read = URL.fullmatch(url)
    return read is not None and all(map(_is_port, re.findall(r":(\d+)(?=,|$)", read["hosts"], re.ASCII)))


OPTIONS = (
    _Option("QUORRA_ENV", "production", _environment),
    _Option("QUORRA_HTTP_ADDR", ":8080", _address),
    _Option("QUORRA_GRPC_ADDR", ":50051", _address),
    _Option("QUORRA_LOG_LEVEL", "info", _choice(*LOG_LEVELS)),
    _Option("DATABASE_URL", "", _dsn, is_secret=True),
    _Option("REDIS_URL", "", _redis_url, is_secret=True),
    _Option("QUORRA_API_KEY", "", _key, is_secret=True),
    _Option("QUORRA_AUTH", "on", _flag),
    _Option("QUORRA_METRICS_OPEN", "on", _flag),
    _Option("QUORRA_HEALTH_OPEN", "on", _flag),
    _Option("QUORRA_BEHIND_TLS_PROXY", "off", _flag),
    _Option("QUORRA_NODE_NAME", "", str),
    _Option("QUORRA_POOL_CONNECTIONS", "10", _number(1, 500)),
    _Option("QUORRA_FAST_POOL_CONNECTIONS", "8", _number(2, 500)),
    _Option("QUORRA_ACQUIRE_TIMEOUT", "5s", _duration(0.01, 600)),
    _Option("QUORRA_STATEMENT_TIMEOUT", "30s", _duration(0.1, 3_600)),
    _Option("QUORRA_PREPARED_STATEMENTS", "on", _flag),
    _Option("QUORRA_NOTIFY", "on", _flag),
    _Option("QUORRA_GRACE", "30s", _duration(0, 3_600)),
    _Option("QUORRA_DRAIN_DELAY", "0s", _duration(0, 3_600)),
    _Option("QUORRA_POLL_INTERVAL", "1s", _duration(0.01, 60)),
    _Option("QUORRA_RETENTION_SUCCEEDED_DAYS", "7", _number(1, 3650)),
    _Option("QUORRA_RETENTION_DEAD_DAYS", "30", _number(1, 3650)),
    _Option("QUORRA_GRPC_CONNECTION_AGE", "30m", _duration(0, 7 * 86_400)),
    *(_Option(setting_of(name), str(getattr(Limits(), name)), _number(*bounds)) for name, bounds in RANGES.items()),
)
# Of each pair the first may not be above the second.
NOT_ABOVE = (
    ("QUORRA_LEASE_SECONDS_MIN", "QUORRA_LEASE_SECONDS_MAX"),
    ("QUORRA_PAYLOAD_BYTES_MAX", "QUORRA_BATCH_BYTES_MAX"),
    ("QUORRA_BATCH_BYTES_MAX", "QUORRA_BODIES_BYTES_MAX"),
)
# Read by workers and the command line; known, so that they are not called misspelt here.
OTHER_PROGRAMS = frozenset(
    {
        "QUORRA_CONFIG",
        "QUORRA_SERVER",
        "QUORRA_STATE_DIR",
        "QUORRA_POSTGRES_BIN",
        "QUORRA_WORKER_ID",
        "QUORRA_WORKER_QUEUES",
        "QUORRA_WORKER_MAX_JOBS",
        "QUORRA_WORKER_LEASE_TTL",
        "QUORRA_TEST_DATABASE_URL",
        "QUORRA_TEST_REDIS_URL",
    }
)


@dataclass(frozen=True, slots=True)
class Setting:
    """One value with where it came from, for `--print-config`."""

    name: str
    shown: str
    source: str


def load(environment: Mapping[str, str] | None = None, *, is_development: bool = False) -> tuple[Config, list[Setting]]:
    """Read the configuration from the environment and, if `QUORRA_CONFIG` names one, a TOML file beneath it.

    What is empty counts as not set.

    Args:
        environment: This process's by default.
        is_development: Beneath both lie the defaults of `quorra-server dev`: development, a random key, and loopback,
            also for an address without a host.

    Raises:
        ConfigurationError: With every mistake found.
    """
    environment = os.environ if environment is None else environment
    mistakes: list[str] = []
    file_values = _read_file(environment.get("QUORRA_CONFIG", ""), mistakes)
    mistakes.extend(_misspelt(environment))
    values: dict[str, Any] = {}
    settings: list[Setting] = []
    for option in _development_options() if is_development else OPTIONS:
        text, source = _value(option, environment, file_values)
        try:
            values[option.name] = option.parse(text)
        except ValueError as error:
            mistakes.append(f"{option.name}={MASK if option.is_secret else text!r}: {error}.")
        settings.append(Setting(option.name, _masked(text) if option.is_secret else text, source))
    if not mistakes:
        mistakes.extend(_contradictions(values))
    if mistakes:
        raise ConfigurationError(mistakes)
    return _config(values), settings


def refusals(config: Config) -> list[str]:
    """Return why the server must not start with this configuration; empty in development.

    Source: the start-up rules of the project's security design.
    """
    if config.is_development:
        return []
    reasons = []
    if not config.security.auth:
        reasons.append(
            "QUORRA_AUTH=off is for development only; set QUORRA_ENV=development, or a key and QUORRA_AUTH=on."
        )
    elif not config.security.api_key:
        reasons.append(
            "QUORRA_API_KEY is not set; make one with: python3 -c 'import secrets; print(secrets.token_hex(32))'."
        )
    elif config.security.api_key in SAMPLE_KEYS:
        reasons.append("QUORRA_API_KEY is a sample key that everybody knows; choose your own.")
    elif len(config.security.api_key) < KEY_CHARACTERS_MIN:
        reasons.append(f"QUORRA_API_KEY is shorter than {KEY_CHARACTERS_MIN} characters; choose a longer one.")
    if not config.listen.behind_tls_proxy and not (config.listen.http.is_loopback and config.listen.grpc.is_loopback):
        reasons.append(
            "The server would take keys in clear text from beyond this machine; bind 127.0.0.1, or terminate TLS in "
            "front of it and say so with --behind-tls-proxy (QUORRA_BEHIND_TLS_PROXY=on)."
        )
    return reasons


def environment_of(config: Config) -> dict[str, str]:
    """Return variables with which another process comes to what `quorra-server dev` settled for this one."""
    return {
        "QUORRA_ENV": config.environment,
        "QUORRA_HTTP_ADDR": str(config.listen.http),
        "QUORRA_GRPC_ADDR": str(config.listen.grpc),
        "QUORRA_API_KEY": config.security.api_key,
        "DATABASE_URL": config.database.dsn,
    }


def _development_options() -> list[_Option]:
    changes: dict[str, dict[str, Any]] = {
        "QUORRA_ENV": {"default": "development"},
        "QUORRA_HTTP_ADDR": {"default": "127.0.0.1:8080", "parse": _loopback_address},
        "QUORRA_GRPC_ADDR": {"default": "127.0.0.1:50051", "parse": _loopback_address},
        "QUORRA_API_KEY": {"default": f"dev-{secrets.token_hex(16)}"},
    }
    return [replace(option, **changes.get(option.name, {})) for option in OPTIONS]


def _read_file(path: str, mistakes: list[str]) -> dict[str, str]:
    if not path:
        return {}
    try:
        content = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        mistakes.append(f"QUORRA_CONFIG={path!r}: {error}.")
        return {}
    known = {option.name for option in OPTIONS}
    mistakes.extend(f"{path}: {name} is not a setting{_nearest(name)}." for name in content if name not in known)
    return {name: str(value) for name, value in content.items() if name in known}


def _misspelt(environment: Mapping[str, str]) -> list[str]:
    known = {option.name for option in OPTIONS} | OTHER_PROGRAMS
    return [
        f"{name} is not a setting{_nearest(name)}."
        for name in sorted(environment)
        if name.startswith("QUORRA_") and name not in known
    ]


def _contradictions(values: Mapping[str, Any]) -> list[str]:
    """Name settings that are fine alone, and not together."""
    return [
        f"{low}={values[low]} is more than {high}={values[high]}; lower the first, or raise the second."
        for low, high in NOT_ABOVE
        if values[low] > values[high]
    ]


def _nearest(name: str) -> str:
    close = difflib.get_close_matches(name, [option.name for option in OPTIONS], n=1)
    return f"; did you mean {close[0]}?" if close else ""


def _value(option: _Option, environment: Mapping[str, str], file_values: Mapping[str, str]) -> tuple[str, str]:
    if environment.get(option.name):
        return environment[option.name], "environment"
    if file_values.get(option.name):
        return file_values[option.name], "file"
    return option.default, "default"


def _masked(text: str) -> str:
    """Show the scheme and the hosts of a clear URL, and nothing of anything else."""
    read = URL.fullmatch(text)
    if read is None:
        return MASK if text else ""
    return f"{read['scheme']}://{read['hosts']}/{MASK}"


def _config(values: Mapping[str, Any]) -> Config:
    return Config(
        environment=values["QUORRA_ENV"],
        log_level=values["QUORRA_LOG_LEVEL"],
        listen=Listen(values["QUORRA_HTTP_ADDR"], values["QUORRA_GRPC_ADDR"], values["QUORRA_BEHIND_TLS_PROXY"]),
        database=DatabaseConfig(
            dsn=values["DATABASE_URL"],
            pool_connections=values["QUORRA_POOL_CONNECTIONS"],
            fast_pool_connections=values["QUORRA_FAST_POOL_CONNECTIONS"],
            acquire_seconds=values["QUORRA_ACQUIRE_TIMEOUT"],
            statement_seconds=values["QUORRA_STATEMENT_TIMEOUT"],
            prepared_statements=values["QUORRA_PREPARED_STATEMENTS"],
            notify=values["QUORRA_NOTIFY"],
        ),
        redis_url=values["REDIS_URL"],
        security=Security(
            values["QUORRA_API_KEY"],
            values["QUORRA_AUTH"],
            values["QUORRA_METRICS_OPEN"],
            values["QUORRA_HEALTH_OPEN"],
        ),
        timing=Timing(
            grace_seconds=values["QUORRA_GRACE"],
            drain_delay_seconds=values["QUORRA_DRAIN_DELAY"],
            poll_seconds=values["QUORRA_POLL_INTERVAL"],
            retention_succeeded_days=values["QUORRA_RETENTION_SUCCEEDED_DAYS"],
            retention_dead_days=values["QUORRA_RETENTION_DEAD_DAYS"],
            connection_age_seconds=values["QUORRA_GRPC_CONNECTION_AGE"],
        ),
        limits=Limits(**{name: values[setting_of(name)] for name in RANGES}),
        node=values["QUORRA_NODE_NAME"] or f"{os.uname().nodename}-{os.getpid()}-{secrets.token_hex(3)}",
    )
