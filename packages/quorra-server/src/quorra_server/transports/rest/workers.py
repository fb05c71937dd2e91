"""The route of workers: who lives."""

from sanic.response import HTTPResponse

from quorra_server.storage import workers
from quorra_server.transports.rest import shapes
from quorra_server.transports.rest.routes import Call, Route, reply


async def list_workers(call: Call[None, None]) -> HTTPResponse:
    """List the workers that were heard of lately."""
    live = await workers.list_workers(call.server.database.main)
    return reply(
        shapes.WorkerList(
            [
                shapes.Worker(
                    worker_id=worker.worker,
                    boot_id=worker.boot_id,
                    node=worker.node,
                    host=worker.host,
                    pid=worker.pid,
                    version=worker.sdk,
                    slots=worker.slots,
                    running=worker.running,
                    queues=list(worker.queues),
                    types=list(worker.types),
                    labels=worker.labels,
                    started_at=worker.started_at,
                    last_beat=worker.last_beat_at,
                )
                for worker in live
            ]
        )
    )


ROUTES = (Route("GET", "/v1/workers", list_workers, "List live workers", reply=shapes.WorkerList, tag="workers"),)
