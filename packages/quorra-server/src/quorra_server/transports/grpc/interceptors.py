"""What every gRPC call passes: authentication on the way in, errors with status and code on the way out."""

import contextlib
import inspect
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, TypeAlias

import grpc
import structlog
from google.protobuf.message import DecodeError

from quorra_server.domain.errors import InvalidRequest, MalformedRequest, Overloaded, QuorraError
from quorra_server.observability.logging import log_incident
from quorra_server.transports.status import status_of

log = structlog.get_logger(__name__)

# Says which principal an API key belongs to; raises Unauthenticated.
Authenticate = Callable[[str | None], str]

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"

OPEN_SERVICES = ("/grpc.health.v1.Health/", "/grpc.reflection.v1alpha.ServerReflection/")


class CallContext:
    """The context of one call, with the principal that made it."""

    def __init__(self, context: Any, principal: str) -> None:
        """Wrap the transport's context."""
        self._context = context
        self.principal = principal

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


class Door(grpc.aio.ServerInterceptor):
    """Lets known keys in, bounds their streams, and turns errors into statuses."""

    def __init__(self, authenticate: Authenticate, streams_per_key_max: int) -> None:
        """Take what knows the keys, and how many streams each may have open."""
        self._authenticate = authenticate
        self._streams_per_key_max = streams_per_key_max
        self._streams: Counter[str] = Counter()

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable["Handler | None"]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> "Handler | None":
        """Wrap the method that the call is for."""
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method.startswith(OPEN_SERVICES):
            return handler
        return self._wrap(handler, _key_of(handler_call_details.invocation_metadata))

    def _wrap(self, handler: Any, key: str | None) -> "Handler":
        options = {
            "request_deserializer": handler.request_deserializer,
            "response_serializer": handler.response_serializer,
        }
        if not handler.request_streaming:
            options["request_deserializer"] = _tolerant(handler.request_deserializer)
        if handler.unary_unary:
            return grpc.unary_unary_rpc_method_handler(self._answering(handler.unary_unary, key), **options)
        if handler.unary_stream:
            return grpc.unary_stream_rpc_method_handler(self._streaming(handler.unary_stream, key), **options)
        method = handler.stream_stream
        wrapped = self._streaming(method, key) if _yields(method) else self._answering(method, key, is_stream=True)
        return grpc.stream_stream_rpc_method_handler(wrapped, **options)

    def _answering(
        self, method: Callable[..., Awaitable[Any]], key: str | None, *, is_stream: bool = False
    ) -> Callable[..., Awaitable[Any]]:
        async def call(request: Any, context: Any) -> Any:
            try:
                principal = self._authenticate(key)
                with self._counted(principal) if is_stream else contextlib.nullcontext():
                    return await method(_readable(request), CallContext(context, principal))
            except Exception as error:
                # Everything leaves as a status: an error of the contract with its code, a bug with an incident id.
                await _abort(context, error)

        return call

    def _streaming(
        self, method: Callable[..., AsyncIterator[Any]], key: str | None
    ) -> Callable[..., AsyncIterator[Any]]:
        async def call(request: Any, context: Any) -> AsyncIterator[Any]:
            try:
                principal = self._authenticate(key)
                with self._counted(principal):
                    async for message in method(_readable(request), CallContext(context, principal)):
                        yield message
            except Exception as error:
                # Everything leaves as a status: an error of the contract with its code, a bug with an incident id.
                await _abort(context, error)

        return call

    @contextlib.contextmanager
    def _counted(self, principal: str) -> Iterator[None]:
        """Count a stream while it is open."""
        if self._streams[principal] >= self._streams_per_key_max:
            raise Overloaded(
                f"The key has {self._streams[principal]:,} streams open on this server, as many as one may have "
                "(QUORRA_STREAMS_PER_KEY_MAX); use one Work stream for each worker process, or try again shortly.",
                retry_after_seconds=1,
            )
        self._streams[principal] += 1
        try:
            yield
        finally:
            self._streams[principal] -= 1
            if not self._streams[principal]:
                del self._streams[principal]


def _tolerant(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Let an unreadable message through as the error that it is, so that it leaves with a status of ours."""

    def deserialized(raw: bytes) -> Any:
        try:
            return deserialize(raw)
        except DecodeError as error:
            return error

    return deserialized


def _readable(request: Any) -> Any:
    if isinstance(request, DecodeError):
        raise MalformedRequest(
            "The message cannot be read: its bytes do not fit quorra.v1, or a string is not UTF-8. Build it from the "
            ".proto file.",
            field="message",
        )
    return request


def _yields(method: Any) -> bool:
    return inspect.isasyncgenfunction(getattr(method, "__func__", method))


def _key_of(metadata: Any) -> str | None:
    given = dict(metadata or ())
    if "x-api-key" in given:
        return str(given["x-api-key"])
    scheme, _, token = str(given.get("authorization", "")).partition(" ")
    return token.strip() or None if scheme.lower() == "bearer" else None


async def _abort(context: Any, error: Exception) -> None:
    if isinstance(error, grpc.aio.AbortError):
        raise error
    if not isinstance(error, QuorraError):
        incident = log_incident(log, "incident", error)
        await context.abort(
            grpc.StatusCode.INTERNAL,
            f"A bug of the server's; report incident {incident}.",
            (("quorra-code", "internal"),),
        )
    assert isinstance(error, QuorraError)
    problem: dict[str, Any] = {"code": error.code, "detail": error.message, "field": error.field}
    if isinstance(error, InvalidRequest) and error.problems:
        problem["errors"] = [{"field": found.field, "message": found.message} for found in error.problems[:20]]
    trailing = [("quorra-code", error.code), ("quorra-problem-bin", json.dumps(problem).encode())]
    if error.retry_after_seconds is not None:
        trailing.append(("retry-after-ms", str(int(error.retry_after_seconds * 1000))))
    await context.abort(status_of(error).grpc, error.message, tuple(trailing))
