"""The gRPC server: workers, producers, health and reflection on one port."""

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from quorra_proto.v1 import quorra_pb2, quorra_pb2_grpc

from quorra_server.domain.limits import Limits
from quorra_server.services import Services
from quorra_server.storage.database import Database
from quorra_server.transports.grpc.interceptors import Authenticate, Door
from quorra_server.transports.grpc.job_service import JobService
from quorra_server.transports.grpc.worker_service import WorkerService

# The fields around the payloads of a batch of full size.
MESSAGE_AIR_BYTES = 4 * 1024 * 1024
STREAMS_MAX = 1_000
SERVICE_NAMES = ("quorra.v1.WorkerService", "quorra.v1.JobService")


class GrpcServer:
    """Serves gRPC until it is stopped."""

    def __init__(
        self,
        services: Services,
        database: Database,
        limits: Limits,
        authenticate: Authenticate,
        *,
        node: str,
        version: str,
        connection_age_seconds: float,
        shares_port: bool,
    ) -> None:
        """Build the server; nothing listens before `start`.

        Args:
            connection_age_seconds: When clients are asked to connect anew, so that load evens out over servers that
                came later; give or take a tenth, and never if 0.
            shares_port: Whether other processes may listen on the same port; without it a taken one is an error.
        """
        self._server = grpc.aio.server(
            interceptors=[Door(authenticate, limits.streams_per_key_max)],
            options=[
                ("grpc.max_receive_message_length", limits.batch_bytes_max + MESSAGE_AIR_BYTES),
                ("grpc.max_send_message_length", -1),
                ("grpc.max_metadata_size", limits.head_bytes_max),
                ("grpc.max_concurrent_streams", STREAMS_MAX),
                ("grpc.so_reuseport", int(shares_port)),
                ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
                *_age_options(connection_age_seconds),
            ],
        )
        self._workers = WorkerService(
            services, database, limits, node=node, version=version, stream_age_seconds=connection_age_seconds
        )
        self._health = health.aio.HealthServicer()
        quorra_pb2_grpc.add_WorkerServiceServicer_to_server(self._workers, self._server)
        quorra_pb2_grpc.add_JobServiceServicer_to_server(JobService(services, database, limits), self._server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        described = [
            quorra_pb2.DESCRIPTOR.services_by_name[name.rpartition(".")[2]].full_name for name in SERVICE_NAMES
        ]
        reflection.enable_server_reflection((*described, health.SERVICE_NAME, reflection.SERVICE_NAME), self._server)

    async def start(self, address: str) -> int:
        """Listen on an address and return the port.

        Raises:
            RuntimeError: The port is taken.
        """
        port = self._server.add_insecure_port(address)
        await self._server.start()
        self._workers.start()
        await self.set_serving(True)
        return port

    async def set_serving(self, serving: bool) -> None:
        """Say over gRPC health whether calls are welcome."""
        state = health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
        for name in ("", *SERVICE_NAMES):
            await self._health.set(name, state)

    async def drain_workers(self) -> None:
        """Tell workers to reconnect elsewhere."""
        await self._workers.drain()

    async def stop(self, grace_seconds: float) -> None:
        """Take no more calls, and give those under way so long to end."""
        await self._server.stop(grace_seconds)
        await self._workers.stop()


def _age_options(seconds: float) -> list[tuple[str, int]]:
    """Let connections end politely at an age, to which the library adds its jitter, and firmly at twice that age."""
    if not seconds:
        return []
    age_ms = int(seconds * 1000)
    return [("grpc.max_connection_age_ms", age_ms), ("grpc.max_connection_age_grace_ms", age_ms)]
