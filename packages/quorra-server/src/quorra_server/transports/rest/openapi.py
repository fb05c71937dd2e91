"""OpenAPI 3.1, generated from the registry of routes, so that it cannot drift from the code."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from quorra_server.transports.rest import shapes
from quorra_server.transports.rest.problems import CONTENT_TYPE
from quorra_server.transports.rest.routes import Route

_PARAMETER = re.compile(r"<(\w+):str>")
PROBLEM_TITLES = {
    400: "Not parsable",
    401: "No key, or a wrong one",
    404: "Not found",
    409: "The state of things forbids it",
    413: "Too large",
    422: "Not valid",
    429: "Too busy",
    503: "The database cannot be reached, or the request took too long",
}
# What each route may answer that needs the database, and each that takes a body.
ANY_ERRORS = (503,)
BODY_ERRORS = (400, 413, 429)


def document(routes: Sequence[Route], version: str) -> dict[str, Any]:
    """Return the OpenAPI document of all routes."""
    types = [kind for route in routes for kind in (route.body, route.reply, route.query) if kind is not None]
    schemas, components = msgspec.json.schema_components(
        [*dict.fromkeys(types), shapes.Problem], ref_template="#/components/schemas/{name}", schema_hook=_raw_schema
    )
    by_type = dict(zip([*dict.fromkeys(types), shapes.Problem], schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(_PARAMETER.sub(r"{\1}", route.path), {})[route.method.lower()] = _operation(
            route, by_type, components
        )
    return {
        "openapi": "3.1.0",
        "info": {"title": "Quorra", "version": version, "license": {"name": "MIT", "identifier": "MIT"}},
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "ApiKey": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "Bearer": {"type": "http", "scheme": "bearer"},
            },
        },
    }


def _raw_schema(kind: type) -> dict[str, Any]:
    if kind is msgspec.Raw:
        return {"description": "Any JSON; kept exactly as it was sent."}
    raise NotImplementedError(f"{kind} has no schema")


def _operation(route: Route, by_type: dict[Any, Any], components: dict[str, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": f"{route.handler.__name__}_{route.path.strip('/').partition('/')[0]}"
        if route.handler.__name__ in ("ready",)
        else route.handler.__name__,
        "summary": route.summary,
        "description": route.handler.__doc__ or route.summary,
        "tags": [route.tag],
        "responses": _responses(route, by_type),
    }
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _PARAMETER.findall(route.path)
    ]
    parameters.extend({"name": name, "in": "header", "schema": {"type": "string"}} for name in route.headers)
    if route.query is not None:
        fields = components[route.query.__name__]["properties"]
        parameters.extend({"name": name, "in": "query", "schema": schema} for name, schema in fields.items())
    if parameters:
        operation["parameters"] = parameters
    if route.body is not None:
        operation["requestBody"] = {"content": {"application/json": {"schema": by_type[route.body]}}}
    operation["security"] = [] if route.is_open else [{"ApiKey": []}, {"Bearer": []}]
    return operation


def _responses(route: Route, by_type: dict[Any, Any]) -> dict[str, Any]:
    good: dict[str, Any] = {"description": route.summary}
    if route.reply is not None:
        good["content"] = {"application/json": {"schema": by_type[route.reply]}}
    problem = {"content": {CONTENT_TYPE: {"schema": by_type[shapes.Problem]}}}
    responses = {str(route.status): good}
    errors = {*route.errors, *(() if route.is_open else ANY_ERRORS), *(BODY_ERRORS if route.body is not None else ())}
    responses.update({str(status): {"description": PROBLEM_TITLES[status], **problem} for status in sorted(errors)})
    return responses
