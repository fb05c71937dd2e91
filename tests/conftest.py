"""Fixtures that all tests share."""

import asyncio
import itertools
import os
from collections.abc import Iterator
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import httpx
import pytest
from quorra_server.embedded import EmbeddedPostgres
from quorra_server.storage.migrate import migrate

from tests.support.processes import NO_TLS, RunningServer, start_server
from tests.support.services import Service, own_postgres, postgres_service, redis_binary, redis_service

# Which of the runner's processes this is ("gw0", ...; "" for the only one): a given PostgreSQL is shared by them all.
RUNNER = os.environ.get("PYTEST_XDIST_WORKER", "")
TEMPLATE = f"quorra_template{RUNNER}"
_numbers = itertools.count(1)


def pytest_report_header() -> list[str]:
    """Say which services the tests run against."""
    from tests.support.services import docker_answers

    database = "given by QUORRA_TEST_DATABASE_URL, else " + ("a container" if docker_answers() else "embedded")
    return [f"PostgreSQL: {database}", f"Redis: given by QUORRA_TEST_REDIS_URL, else {redis_binary()}"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that hold slow tests when several processes share the work: none ends alone with one."""
    if RUNNER:
        slow = {item.path for item in items if item.get_closest_marker("slow")}
        items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session")
def postgres_for_all() -> Iterator[Service]:
    """The PostgreSQL that the tests of this process share."""
    with postgres_service() as service:
        yield service


@pytest.fixture(scope="session")
def template(postgres_for_all: Service) -> str:
    """The name of a migrated database that is copied for each test."""

    async def prepare() -> None:
        connection = await asyncpg.connect(postgres_for_all.url)
        await connection.execute(f"DROP DATABASE IF EXISTS {TEMPLATE} WITH (FORCE)")
        await connection.execute(f"CREATE DATABASE {TEMPLATE}")
        await connection.close()
        await migrate(on_database(postgres_for_all.url, TEMPLATE))

    asyncio.run(prepare())
    return TEMPLATE


@pytest.fixture
def database_url(postgres_for_all: Service, template: str) -> Iterator[str]:
    """A fresh, migrated database of the test's own."""
    name = f"quorra_test{RUNNER}_{next(_numbers)}"
    strategy = "STRATEGY FILE_COPY" if "embedded" in postgres_for_all.source else ""
    asyncio.run(_admin(postgres_for_all.url, f"CREATE DATABASE {name} TEMPLATE {template} {strategy}"))
    yield on_database(postgres_for_all.url, name)
    asyncio.run(_admin(postgres_for_all.url, f"DROP DATABASE {name} WITH (FORCE)"))


async def _admin(url: str, statement: str) -> None:
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def on_database(url: str, name: str) -> str:
    """Return an address with another database."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{name}"))


@pytest.fixture
def server(database_url: str) -> Iterator[RunningServer]:
    """A server process on a database of the test's own."""
    with start_server(database_url) as running:
        yield running


@pytest.fixture
def postgres() -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL of the test's own, durable, to be stopped and killed."""
    with own_postgres() as running:
        yield running


@pytest.fixture(scope="session")
def redis_url() -> Iterator[str]:
    """The Redis that the tests of this process share."""
    with redis_service() as service:
        yield service.url


@pytest.fixture(scope="session")
def shared_server(postgres_for_all: Service, template: str) -> Iterator[RunningServer]:
    """A server for tests that do not disturb each other."""
    name = f"quorra_shared{RUNNER}"
    asyncio.run(_admin(postgres_for_all.url, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
    asyncio.run(_admin(postgres_for_all.url, f"CREATE DATABASE {name} TEMPLATE {template}"))
    with start_server(on_database(postgres_for_all.url, name)) as running:
        yield running


@pytest.fixture
def api(shared_server: RunningServer) -> Iterator[httpx.Client]:
    """REST, signed in."""
    url, headers = shared_server.http_url, shared_server.headers
    with httpx.Client(base_url=url, headers=headers, timeout=40, verify=NO_TLS) as client:
        yield client


@pytest.fixture
def queue_name() -> str:
    """The name of a queue that no other test uses."""
    return f"queue-{next(_numbers)}"
