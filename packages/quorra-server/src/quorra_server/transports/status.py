"""THE table: which status each error has, over HTTP and over gRPC."""

from typing import NamedTuple

import grpc

from quorra_server.domain import errors


class Status(NamedTuple):
    """What an error is called on the wire."""

    http: int
    grpc: grpc.StatusCode


STATUS: dict[type[errors.QuorraError], Status] = {
    errors.QuorraError: Status(500, grpc.StatusCode.INTERNAL),
    errors.InvalidRequest: Status(422, grpc.StatusCode.INVALID_ARGUMENT),
    errors.MalformedRequest: Status(400, grpc.StatusCode.INVALID_ARGUMENT),
    errors.Unauthenticated: Status(401, grpc.StatusCode.UNAUTHENTICATED),
    errors.Forbidden: Status(403, grpc.StatusCode.PERMISSION_DENIED),
    errors.JobNotFound: Status(404, grpc.StatusCode.NOT_FOUND),
    errors.QueueNotFound: Status(404, grpc.StatusCode.NOT_FOUND),
    errors.RouteNotFound: Status(404, grpc.StatusCode.UNIMPLEMENTED),
    errors.MethodNotAllowed: Status(405, grpc.StatusCode.UNIMPLEMENTED),
    errors.Conflict: Status(409, grpc.StatusCode.FAILED_PRECONDITION),
    errors.IllegalTransition: Status(409, grpc.StatusCode.FAILED_PRECONDITION),
    errors.KeyReused: Status(409, grpc.StatusCode.FAILED_PRECONDITION),
    errors.LeaseLost: Status(409, grpc.StatusCode.ABORTED),
    errors.PayloadTooLarge: Status(413, grpc.StatusCode.INVALID_ARGUMENT),
    errors.Overloaded: Status(429, grpc.StatusCode.RESOURCE_EXHAUSTED),
    errors.StorageUnavailable: Status(503, grpc.StatusCode.UNAVAILABLE),
    errors.OutcomeUnknown: Status(503, grpc.StatusCode.UNAVAILABLE),
    errors.SchemaTooNew: Status(503, grpc.StatusCode.UNAVAILABLE),
}


def status_of(error: errors.QuorraError) -> Status:
    """Return the status of an error."""
    return STATUS[type(error)]
