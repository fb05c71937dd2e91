"""The server as a process: start-up rules, several nodes, and a stop that nobody can hold up."""

import signal
import socket
import subprocess
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.processes import (
    API_KEY,
    BIN,
    RunningServer,
    clean_environment,
    start_process,
    start_server,
    wait_until_ready,
)
from tests.support.rest import Rest
from tests.support.services import free_port
from tests.support.waiting import eventually_sync

CREATED = 'quorra_jobs_created_total{queue="default"}'
PENDING = 'quorra_job_queue_length{queue="default",status="pending"}'


def _run(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(BIN / "quorra-server"), *arguments],
        env={**clean_environment(), **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_an_unsafe_start_ends_with_78_and_says_every_reason() -> None:
    done = _run(DATABASE_URL="postgres://nobody@127.0.0.1:1/x", QUORRA_API_KEY="short")

    assert 78 == done.returncode
    assert "shorter than 32" in done.stderr
    assert "clear text" in done.stderr


def test_check_and_migrate_say_what_is_wrong_and_what_is_fine(database_url: str) -> None:
    safe = {"QUORRA_API_KEY": API_KEY, "QUORRA_HTTP_ADDR": "127.0.0.1:1", "QUORRA_GRPC_ADDR": "127.0.0.1:2"}

    assert 0 == _run("check", DATABASE_URL=database_url, **safe).returncode
    assert "up to date" in _run("migrate", DATABASE_URL=database_url, **safe).stdout
    unreachable = _run("migrate", DATABASE_URL="postgres://nobody@127.0.0.1:1/x", **safe)
    assert 1 == unreachable.returncode
    assert "DATABASE_URL" in unreachable.stderr
    assert API_KEY not in _run("--print-config", DATABASE_URL=database_url, **safe).stdout


@pytest.mark.parametrize("command", ["check", "migrate"])
@pytest.mark.parametrize("host", ["db:abc", "u:pa#ss@db", "u:pa[ss@db"])
def test_a_database_url_that_cannot_be_read_ends_with_78_and_a_sentence(command: str, host: str) -> None:
    done = _run(command, DATABASE_URL=f"postgres://{host}/x")

    assert 78 == done.returncode
    assert done.stderr.startswith("quorra-server: DATABASE_URL='********': use postgres://")
    assert "Traceback" not in done.stderr
    assert "ss@" not in done.stderr


def test_dev_can_print_its_configuration_without_starting_anything(tmp_path: Path) -> None:
    done = _run("dev", "--print-config", QUORRA_STATE_DIR=str(tmp_path / "state"))

    assert 0 == done.returncode
    assert "127.0.0.1:8080" in done.stdout
    assert not (tmp_path / "state").exists()


def test_dev_takes_database_key_and_addresses_from_its_file(database_url: str, tmp_path: Path) -> None:
    http, grpc = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
    file = tmp_path / "quorra.toml"
    file.write_text(
        f'DATABASE_URL = "{database_url}"\nQUORRA_API_KEY = "{API_KEY}"\n'
        f'QUORRA_HTTP_ADDR = "{http}"\nQUORRA_GRPC_ADDR = "{grpc}"\n'
    )
    moved = {"QUORRA_STATE_DIR": str(tmp_path / "state")}

    with start_process([str(BIN / "quorra-server"), "dev", "--config", str(file)], moved) as dev:
        server = RunningServer(dev.process, dev.log_path, http_url=f"http://{http}", grpc_address=grpc)
        wait_until_ready(server)

        assert "pending" == Rest(server).job(Rest(server).submit("t"))["status"]
        assert 0 == server.terminate()
    assert not (tmp_path / "state").exists()


def test_several_nodes_share_the_ports_and_a_killed_one_is_replaced(database_url: str) -> None:
    with start_server(database_url, arguments=("--workers", "2")) as server:
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
        before = eventually_sync(lambda: pids if len(pids := children.read_text().split()) == 2 else None, "two nodes")
        assert before is not None
        subprocess.run(["kill", "-9", before[0]], check=True)

        eventually_sync(
            lambda: len(now := children.read_text().split()) == 2 and before[0] not in now,
            "another node took its place",
        )
        rest = Rest(server)
        assert "pending" == rest.job(rest.submit("t"))["status"]
        second = _run(
            "--workers", "2", DATABASE_URL=database_url, QUORRA_API_KEY=API_KEY,
            QUORRA_HTTP_ADDR=server.http_url.removeprefix("http://"), QUORRA_GRPC_ADDR=server.grpc_address,
        )  # fmt: skip
        code = server.terminate()

    assert 0 == code
    assert 1 == second.returncode
    assert "Is another server running" in second.stderr


def test_when_the_supervisor_is_killed_its_nodes_drain_and_free_the_ports(database_url: str) -> None:
    with start_server(database_url, arguments=("--workers", "2")) as server:
        nodes = eventually_sync(
            lambda: found if len(found := psutil.Process(server.process.pid).children()) == 2 else None, "two nodes"
        )
        assert nodes is not None
        job_id = Rest(server).submit("t")

        server.kill()

        _, left = psutil.wait_procs(nodes, timeout=30)
        assert [] == left
        assert 2 == server.log.count("the supervisor is gone")
        http_port, grpc_port = (int(address.rpartition(":")[2]) for address in (server.http_url, server.grpc_address))
        with start_server(
            database_url, arguments=("--workers", "2"), http_port=http_port, grpc_port=grpc_port
        ) as next_one:
            assert "pending" == Rest(next_one).job(job_id)["status"]
            assert 0 == next_one.terminate()


def test_a_node_whose_supervisor_is_killed_before_it_serves_ends_too(database_url: str) -> None:
    with start_server(database_url, arguments=("--workers", "2")) as server:
        supervisor = psutil.Process(server.process.pid)
        first, _ = (
            eventually_sync(lambda: found if len(found := supervisor.children()) == 2 else None, "two nodes") or []
        )
        first.kill()
        starting = eventually_sync(
            lambda: next((child for child in supervisor.children() if child.create_time() > first.create_time()), None),
            "the next one starts",
        )
        assert starting is not None
        nodes = supervisor.children()

        server.kill()

        _, left = psutil.wait_procs(nodes, timeout=30)
        assert [] == left


def test_several_processes_have_names_of_their_own_although_a_file_names_the_server(
    database_url: str, tmp_path: Path
) -> None:
    """A process takes a wake-up that carries its own name for one of its own, and ignores it."""
    file = tmp_path / "quorra.toml"
    file.write_text('QUORRA_NODE_NAME = "web"\n')

    with start_server(database_url, {"QUORRA_CONFIG": str(file)}, arguments=("--workers", "2")) as server:
        names: set[str] = set()

        def both_have_answered() -> bool:
            names.add(_scrape(server)["quorra_build_info"])
            return len(names) == 2

        eventually_sync(both_have_answered, "two names were seen")
        assert all('node="web-' in name for name in names)


def _port(address: str) -> int:
    return int(address.rpartition(":")[2])


def test_a_scrape_of_any_process_answers_for_all_of_them(database_url: str) -> None:
    with start_server(database_url, arguments=("--workers", "2")) as server:
        children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
        nodes = {_scrape(server)["quorra_build_info"]}

        def both_have_counted() -> bool:
            # A connection of its own for each request, so that either process may take it.
            httpx.post(f"{server.http_url}/v1/jobs", json={"type": "t", "payload": {}}, headers=server.headers)
            nodes.add(_scrape(server)["quorra_build_info"])
            return len(nodes) == 2

        eventually_sync(both_have_counted, "both processes were scraped")
        scrapes = [_scrape(server) for _ in range(20)]
        (submitted,) = {scrape[CREATED] for scrape in scrapes}

        assert nodes == {scrape["quorra_build_info"] for scrape in scrapes}
        assert {str(Rest(server).count("default", "pending"))} == {f"{float(submitted):g}"}
        assert {submitted} == {scrape[PENDING] for scrape in scrapes}, "counted in the database, once"
        assert [] == [name for scrape in scrapes for name in scrape if "pid=" in name], "and said once"

        killed = children.read_text().split()[0]
        subprocess.run(["kill", "-9", killed], check=True)
        eventually_sync(lambda: killed not in children.read_text().split(), "it is gone")
        after = eventually_sync(lambda: _scrape(server, patient=True), "somebody answers")
        assert submitted == after[CREATED], "what a killed process counted stays counted"
        assert 0 == server.terminate()


def _scrape(server: RunningServer, *, patient: bool = False) -> dict[str, str]:
    """Return each sample; for build information its labels, which name the process."""
    try:
        text = httpx.get(f"{server.http_url}/metrics").text
    except httpx.TransportError:
        if patient:
            return {}
        raise
    samples = {}
    for line in text.splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            bare, _, labels = name.partition("{")
            if bare == "quorra_build_info":
                name, value = bare, labels
            samples[name] = value
    return samples


def test_an_idle_keep_alive_connection_does_not_hold_up_the_stop(database_url: str) -> None:
    with start_server(database_url) as server, httpx.Client(base_url=server.http_url) as client:
        client.get("/livez")
        host, _, port = server.http_url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as silent:
            server.signal(signal.SIGTERM)
            code = server.process.wait(5)
            silent.close()

    assert 0 == code


def test_a_request_head_that_drips_is_cut(database_url: str) -> None:
    with start_server(database_url) as server:
        host, _, port = server.http_url.removeprefix("http://").partition(":")
        with socket.create_connection((host, int(port))) as dripping:
            dripping.settimeout(15)
            dripping.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nX-Drip: ")
            answer = dripping.recv(1000)

    assert b"" == answer or b" 408 " in answer or b" 400 " in answer


def test_a_second_server_on_a_taken_port_says_so(database_url: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = _run(
            DATABASE_URL=database_url, QUORRA_API_KEY=API_KEY,
            QUORRA_HTTP_ADDR=f"127.0.0.1:{taken.getsockname()[1]}", QUORRA_GRPC_ADDR=f"127.0.0.1:{free_port()}",
        )  # fmt: skip

    assert 1 == done.returncode
    assert "Is another server running" in done.stderr


@pytest.mark.parametrize("shared", ["QUORRA_HTTP_ADDR", "QUORRA_GRPC_ADDR"])
def test_a_second_server_on_a_port_of_the_first_says_so(database_url: str, shared: str) -> None:
    with start_server(database_url) as server:
        taken = {
            "QUORRA_HTTP_ADDR": server.http_url.removeprefix("http://"),
            "QUORRA_GRPC_ADDR": server.grpc_address,
        }
        addresses = {name: f"127.0.0.1:{free_port()}" for name in taken} | {shared: taken[shared]}
        done = _run(DATABASE_URL=database_url, QUORRA_API_KEY=API_KEY, **addresses)

    assert 1 == done.returncode
    assert f"{taken[shared]} cannot be bound" in done.stderr
    assert "Is another server running on that port?" in done.stderr


def test_nobody_can_slip_onto_the_ports_of_a_running_server(database_url: str) -> None:
    with start_server(database_url) as server:
        for address in (server.http_url, server.grpc_address):
            with socket.socket() as other:
                other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                with pytest.raises(OSError, match="in use"):
                    other.bind(("127.0.0.1", _port(address)))


def test_of_several_database_hosts_the_one_that_takes_writes_is_used(database_url: str) -> None:
    credentials, _, rest = database_url.partition("@")
    several = f"{credentials}@127.0.0.1:{free_port()},{rest}?target_session_attrs=read-write&sslmode=disable"

    with start_server(several) as server:
        found = Rest(server)

        assert "pending" == found.job(found.submit("t"))["status"]
