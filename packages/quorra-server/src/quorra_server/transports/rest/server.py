"""The HTTP server: binds the routes to Sanic, and stops without waiting for idle connections."""

import asyncio
import html
import logging
import socket
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import msgspec
import structlog
from sanic import Sanic
from sanic.exceptions import ServiceUnavailable
from sanic.request import Request
from sanic.response import HTTPResponse

from quorra_server.config import Config, Security
from quorra_server.observability.metrics import Metrics
from quorra_server.services import Services
from quorra_server.storage.database import Database
from quorra_server.transports.dashboard.pages import Dashboard
from quorra_server.transports.rest import dead, failovers, health, jobs, openapi, queues, workers
from quorra_server.transports.rest.admission import Admission
from quorra_server.transports.rest.connection import HEAD_SECONDS_MAX, StrictProtocol
from quorra_server.transports.rest.lane import Lane
from quorra_server.transports.rest.problems import decode_json, problem_response
from quorra_server.transports.rest.routes import (
    Call,
    Memory,
    Route,
    Server,
    check_json_type,
    decode_query,
    key_of,
    read_body,
)

log = structlog.get_logger(__name__)

RESPONSE_SECONDS_MAX = 120
KEEP_ALIVE_SECONDS = 75
# What is still read of a body that was refused, so that its client sees the answer.
UNWANTED_BODY_BYTES_MAX = 32 * 1024 * 1024
# A body with one payload of full size and the fields around it.
BODY_AIR_BYTES = 64 * 1024
CLOSE_LOOK_SECONDS = 0.02

ROUTES: Sequence[Route] = (
    *jobs.ROUTES,
    *queues.ROUTES,
    *dead.ROUTES,
    *workers.ROUTES,
    *failovers.ROUTES,
    *health.ROUTES,
)
Authenticate = Callable[[str | None], str]


class RestServer:
    """Serves HTTP until it is stopped. The event loop, its signals and the drain belong to the caller."""

    def __init__(
        self,
        services: Services,
        database: Database,
        metrics: Metrics,
        config: Config,
        authenticate: Authenticate,
        *,
        version: str,
    ) -> None:
        """Build the application; nothing listens before `start`."""
        self._server = Server(services, database, metrics, config.limits, version)
        self._config = config
        self._authenticate = authenticate
        self._memory = Memory(config.limits.bodies_bytes_max)
        self._app = _sanic_app(config.limits.head_bytes_max)
        self._app.ctx.lane = Lane(self._server, authenticate, self._memory)
        self._app.ctx.admission = Admission(
            config.limits.http_connections_max,
            # Behind a proxy everybody has one address.
            0 if config.listen.behind_tls_proxy else config.limits.http_connections_per_address_max,
            metrics,
        )
        self._asyncio_server: Any = None
        routes = [_as_set(route, config.security) for route in ROUTES]
        for route in routes:
            self._bind(route)
        self._bind_documents(openapi.document(routes, version))
        Dashboard(self._server, authenticate, config.security).bind(self._app)

    async def start(self, listening: socket.socket) -> None:
        """Serve on a socket that is bound already."""
        self._asyncio_server = await self._app.create_server(
            sock=listening,
            protocol=StrictProtocol,
            return_asyncio_server=True,
            asyncio_server_kwargs={"start_serving": False},
        )
        await self._asyncio_server.startup()
        await self._asyncio_server.start_serving()

    async def stop(self, grace_seconds: float) -> None:
        """Take no more connections, close idle ones, and give requests under way so long to end."""
        self._asyncio_server.close()
        deadline = time.monotonic() + grace_seconds
        connections = self._asyncio_server.connections
        while not _close_idle(connections) and time.monotonic() < deadline:
            await asyncio.sleep(CLOSE_LOOK_SECONDS)
        for connection in list(connections):
            connection.abort()

    def _bind(self, route: Route) -> None:
        decode = msgspec.json.Decoder(route.body).decode if route.body is not None and not route.is_stream else None
        bytes_max = self._config.limits.payload_bytes_max + BODY_AIR_BYTES

        async def handle(request: Request, **path: str) -> HTTPResponse:
            principal = "" if route.is_open else self._authenticate(key_of(request.headers))
            body: Any = None
            if route.is_stream:
                body = self._memory
            elif decode is not None:
                body = await self._decoded(request, decode, bytes_max)
            return await route.handler(Call(self._server, request, principal, body, decode_query(route, request), path))

        self._add(route.path, route.method, handle)

    def _add(self, path: str, method: str, handle: Callable[..., Awaitable[HTTPResponse]]) -> None:
        async def guarded(request: Request, **parameters: str) -> HTTPResponse | None:
            try:
                return await handle(request, **parameters)
            except Exception as error:
                # Every error leaves as problem details; what is not part of the contract is an incident.
                return problem_response(error)

        name = f"{method.lower()}_{path.strip('/').replace('/', '_').replace('<', '').replace(':str>', '') or 'root'}"
        methods = ["GET", "HEAD"] if method == "GET" else [method]
        # Each route reads its own body, or none: Sanic would read it whole, before anybody asked for a key.
        self._app.add_route(guarded, path, methods=methods, name=name, stream=True)

    async def _decoded(self, request: Request, decode: Callable[[bytes], Any], bytes_max: int) -> Any:
        check_json_type(request.headers)
        limit = self._config.limits.named("payload_bytes_max")
        return decode_json(decode, await read_body(request, bytes_max, self._memory, limit) or b"{}")

    def _bind_documents(self, api: dict[str, Any]) -> None:
        encoded = msgspec.json.encode(api)
        page = _docs_page(api).encode()

        async def openapi_json(_: Request) -> HTTPResponse:
            return HTTPResponse(encoded, content_type="application/json")

        async def docs(_: Request) -> HTTPResponse:
            return HTTPResponse(
                page,
                content_type="text/html; charset=utf-8",
                headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"},
            )

        self._add("/openapi.json", "GET", openapi_json)
        self._add("/docs", "GET", docs)


def _as_set(route: Route, security: Security) -> Route:
    """Return a route as the settings have it: what is open by default can be closed."""
    is_closed = (route.path == "/metrics" and not security.metrics_open) or (
        route.path in ("/readyz", "/healthz") and not security.health_open
    )
    return replace(route, is_open=False, errors=(*route.errors, 401)) if is_closed else route


def _close_idle(connections: Iterable[StrictProtocol]) -> bool:
    """Close all connections that are idle, and say whether none was busy."""
    were_idle = [connection.close_if_idle() for connection in list(connections)]
    return all(were_idle)


def _sanic_app(head_bytes_max: int) -> Sanic[Any, Any]:
    # Sanic keeps a registry of names; several servers may live in one process one after another.
    app: Sanic[Any, Any] = Sanic(f"quorra-{time.monotonic_ns()}", configure_logging=False)
    app.config.update(
        ACCESS_LOG=False,
        REQUEST_TIMEOUT=int(HEAD_SECONDS_MAX),
        RESPONSE_TIMEOUT=RESPONSE_SECONDS_MAX,
        KEEP_ALIVE_TIMEOUT=KEEP_ALIVE_SECONDS,
        REQUEST_MAX_HEADER_SIZE=head_bytes_max,
        REQUEST_MAX_SIZE=UNWANTED_BODY_BYTES_MAX,
        FALLBACK_ERROR_FORMAT="json",
        MOTD=False,
        # Sanic takes its signals, to which nobody here listens, out of its own code, and with them half of a request's
        # time. It can do so once in a process.
        TOUCHUP=not getattr(Sanic, "__touched__", False),
    )
    logging.getLogger("sanic").setLevel(logging.ERROR)
    logging.getLogger("sanic.error").setLevel(logging.CRITICAL)

    async def refuse(request: Request, error: Exception) -> HTTPResponse:
        if isinstance(error, ServiceUnavailable):
            log.warning("request_took_too_long", method=request.method, path=request.path)
        return problem_response(error)

    app.error_handler.add(Exception, refuse)
    return app


def _docs_page(api: dict[str, Any]) -> str:
    rows = [
        f"<tr><td><code>{method.upper()}</code></td><td><code>{html.escape(path)}</code></td>"
        f"<td>{html.escape(operation['description'])}</td></tr>"
        for path, operations in api["paths"].items()
        for method, operation in operations.items()
    ]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        "<title>Quorra API</title><style>:root{color-scheme:light dark}body{font:16px/1.5 system-ui;margin:2rem auto;"
        "max-width:60rem;padding:0 1rem}td{padding:.3rem .8rem .3rem 0;vertical-align:top}</style>"
        f"<h1>Quorra API {html.escape(api['info']['version'])}</h1><p>All types are in "
        f"<a href=/openapi.json>openapi.json</a> (OpenAPI 3.1).</p><table>{''.join(rows)}</table></html>"
    )
