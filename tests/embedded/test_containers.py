"""`quorra-server dev` as process 1 of a container without an init, as root, with and without user namespaces."""

import contextlib
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from quorra_server.embedded import WATCHER

from tests.support.containers import Container, start_container, why_no_containers
from tests.support.processes import API_KEY, BIN
from tests.support.services import free_port
from tests.support.waiting import eventually_sync

Start = Callable[[], "contextlib.AbstractContextManager[tuple[Container, httpx.Client]]"]
SUBMITTED = {"type": "kept", "payload": {"n": 1}}


@pytest.fixture(params=[False, True], ids=["own user namespace", "user namespaces forbidden"])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Start:
    """Starts the server; each start of a test finds the data of the one before."""
    if reason := why_no_containers(confined=request.param):
        pytest.skip(reason)

    @contextlib.contextmanager
    def run() -> Iterator[tuple[Container, httpx.Client]]:
        http = f"127.0.0.1:{free_port()}"
        environment = {
            "QUORRA_HTTP_ADDR": http,
            "QUORRA_GRPC_ADDR": f"127.0.0.1:{free_port()}",
            "QUORRA_API_KEY": API_KEY,
        }
        command = [str(BIN / "quorra-server"), "dev", "--data-dir", str(tmp_path / "pg")]
        with (
            start_container(command, environment, confined=request.param) as container,
            httpx.Client(base_url=f"http://{http}", headers={"X-API-Key": API_KEY}, timeout=10) as api,
        ):
            eventually_sync(lambda: _is_ready(api), "the server is ready", timeout=60)
            yield container, api

    return run


def _is_ready(api: httpx.Client) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return api.get("/readyz").status_code == 200
    return False


def _submits(api: httpx.Client) -> bool:
    return api.post("/v1/jobs", json=SUBMITTED).status_code == 201


def _kept(api: httpx.Client) -> int:
    return len(api.get("/v1/jobs").json()["jobs"])


def _kill(process: psutil.Process) -> None:
    process.kill()
    eventually_sync(lambda: not psutil.pid_exists(process.pid), "it is gone and reaped")


def _log(tmp_path: Path) -> str:
    return (tmp_path / "pg" / "postgres.log").read_text()


def test_it_stops_in_order_at_sigterm_and_keeps_its_data(start: Start, tmp_path: Path) -> None:
    with start() as (container, api):
        assert _submits(api)
        container.process_1.send_signal(signal.SIGTERM)
        code = container.ended()
    first = _log(tmp_path)
    with start() as (_, api):
        kept = _kept(api)

    assert 0 == code
    assert "database system is shut down" in first
    assert "not properly shut down" not in _log(tmp_path)
    assert 1 == kept


def test_a_container_that_was_killed_recovers_in_the_next_one(start: Start, tmp_path: Path) -> None:
    with start() as (container, api):
        assert _submits(api)
        container.process_1.kill()
        container.ended()
    with start() as (_, api):
        assert 1 == _kept(api)
        assert _submits(api)

    assert "not properly shut down" in _log(tmp_path)


def test_a_killed_postgresql_comes_back_by_itself_and_leaves_no_zombies(start: Start) -> None:
    with start() as (container, api):
        assert _submits(api)
        for _ in range(3):
            _kill(container.the("/postgres", "-D"))
            eventually_sync(lambda: _submits(api), "jobs are taken again", timeout=20)

        eventually_sync(lambda: container.zombies() == [], "nobody stays dead and unburied")
        assert 4 <= _kept(api)


def test_a_killed_server_lets_its_postgresql_shut_down_before_the_container_ends(start: Start, tmp_path: Path) -> None:
    with start() as (container, api):
        assert _submits(api)
        container.the("/quorra-server", "dev").kill()
        code = container.ended()
    with start() as (_, api):
        kept = _kept(api)

    assert 128 + signal.SIGKILL == code
    assert "not properly shut down" not in _log(tmp_path)
    assert 1 == kept


def test_orphans_are_reaped_by_process_1(start: Start) -> None:
    with start() as (container, _):
        postmaster = container.the("/postgres", "-D")
        container.the("/embedded_watcher.py", "watch").kill()

        # Without its watcher it shuts down; its parent is process 1 then.
        eventually_sync(lambda: not psutil.pid_exists(postmaster.pid), "it is gone and reaped", timeout=20)
        container.process_1.send_signal(signal.SIGTERM)
        assert 0 == container.ended()


def test_postgresql_finds_its_programs_below_a_directory_of_roots(tmp_path: Path) -> None:
    if reason := why_no_containers(confined=True):
        pytest.skip(reason)
    programs = tmp_path / "root's own"
    programs.mkdir(mode=0o700)
    program = programs / "initdb"
    program.touch(0o755)
    home = tmp_path / "pg"
    home.mkdir()
    asks = f"import os; raise SystemExit(0 if os.getuid() and os.access({str(program)!r}, os.X_OK) else 7)"
    command = [sys.executable, "-I", str(WATCHER), "run", str(home), "0", sys.executable, "-c", asks]

    with start_container(command, {}, confined=True) as container:
        assert 0 == container.ended()
