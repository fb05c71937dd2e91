"""Workers, clients and the command line behind a proxy where TLS ends, which servers want beyond one machine."""

import asyncio
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trustme
from quorra_worker_sdk import AsyncClient, Worker

from tests.support.processes import BIN, RunningServer, clean_environment, start_worker
from tests.support.proxy import Proxy
from tests.support.rest import Rest
from tests.support.waiting import eventually_sync

# The handler outlives its lease, so that heartbeats must have come through, and submits through the worker's client.
MODULE = """
    import asyncio
    from datetime import timedelta
    from quorra_worker_sdk import NewJob, Worker

    worker = Worker(lease_ttl=timedelta(seconds=1))

    @worker.job("first")
    async def first() -> str:
        await asyncio.sleep(2)
        return (await worker.client.submit(NewJob("second", {}))).id

    @worker.job("second")
    async def second() -> str:
        return "done"
"""


async def test_a_worker_and_its_client_reach_a_server_through_tls(server: RunningServer, tmp_path: Path) -> None:
    rest = Rest(server)
    async with _tls(server, tmp_path) as (address, roots):
        with start_worker(server, MODULE, tmp_path, environment={"QUORRA_GRPC_ADDR": address, **roots}):
            first = await asyncio.to_thread(rest.ended, rest.submit("first"))
            second = await asyncio.to_thread(rest.ended, first["result"])

    assert (1, "done") == (first["attempts"], second["result"])


async def test_a_server_whose_certificate_nobody_vouches_for_is_told_nothing(
    server: RunningServer, tmp_path: Path
) -> None:
    rest = Rest(server)
    job_id = rest.submit("second")
    async with _tls(server, tmp_path) as (address, _):
        with start_worker(server, MODULE, tmp_path, environment={"QUORRA_GRPC_ADDR": address}) as worker:
            said = await asyncio.to_thread(
                eventually_sync, lambda: worker.log if "opening it again" in worker.log else "", "it cannot connect"
            )

    assert "CERTIFICATE_VERIFY_FAILED" in said

    assert "pending" == rest.job(job_id)["status"]


async def test_the_command_line_asks_grpc_health_through_tls(server: RunningServer, tmp_path: Path) -> None:
    async with _tls(server, tmp_path) as (address, roots):
        asked = await asyncio.to_thread(
            subprocess.run,
            [str(BIN / "quorractl"), "server", "health", "--grpc", address, "--output", "json"],
            env={**clean_environment(), **server.environment, **roots},
            capture_output=True,
            text=True,
            check=False,
        )

    assert (0, True) == (asked.returncode, '"SERVING"' in asked.stdout), asked.stderr


@pytest.mark.parametrize("address", ["https://", "https://queue.example/path", "http://queue.example"])
def test_an_address_that_cannot_be_read_is_refused_at_once(address: str) -> None:
    with pytest.raises(ValueError, match="use host:port, or https://host:port for TLS"):
        AsyncClient(address)
    with pytest.raises(ValueError, match="use host:port, or https://host:port for TLS"):
        Worker(address)


@asynccontextmanager
async def _tls(server: RunningServer, folder: Path) -> AsyncIterator[tuple[str, dict[str, str]]]:
    """End TLS in front of a server; yields its address, and how a process is told whom to trust."""
    authority = trustme.CA()
    roots = folder / "roots.pem"
    authority.cert_pem.write_to_path(roots)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.set_alpn_protocols(["h2"])
    authority.issue_cert("localhost").configure_cert(context)
    host, _, port = server.grpc_address.rpartition(":")
    async with Proxy(host, int(port), tls=context) as proxy:
        yield f"https://localhost:{proxy.port}", {"GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(roots)}
