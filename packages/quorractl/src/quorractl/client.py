"""The REST interface: a method for each route."""

import json
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import httpx

from quorractl.contexts import Context
from quorractl.errors import Refused, Unreachable

CALL_SECONDS = 30.0
NDJSON = "application/x-ndjson"
Json = dict[str, Any]


class Client:
    """Talks to one server."""

    def __init__(self, context: Context) -> None:
        """Take where it is; connects when it is first used."""
        headers = {"X-API-Key": context.api_key} if context.api_key else {}
        self.server = context.server
        self._http = httpx.Client(base_url=context.server, headers=headers, timeout=CALL_SECONDS)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def submit_job(self, body: bytes, idempotency_key: str | None) -> Json:
        """POST /v1/jobs; the body is JSON text as it was typed."""
        headers = {"Content-Type": "application/json"}
        if idempotency_key:
            headers["Idempotency-Key"] = idempotency_key
        return self._send("POST", "/v1/jobs", content=body, headers=headers)

    def import_jobs(self, lines: list[bytes]) -> list[Json]:
        """POST /v1/jobs/batch as NDJSON; one answer a line."""
        body = b"".join(line.rstrip(b"\n") + b"\n" for line in lines)
        response = self._request("POST", "/v1/jobs/batch", content=body, headers={"Content-Type": NDJSON})
        return [json.loads(line) for line in response.text.splitlines()]

    def get_job(self, job_id: str, wait_seconds: int = 0) -> Json:
        """GET /v1/jobs/{id}, perhaps after it ended."""
        params = {"wait": f"{wait_seconds}s"} if wait_seconds else {}
        return self._send(
            "GET", f"/v1/jobs/{quote(job_id, safe='')}", params=params, timeout=CALL_SECONDS + wait_seconds
        )

    def list_jobs(self, path: str, params: Mapping[str, Any], limit: int) -> Iterator[Json]:
        """GET /v1/jobs or /v1/dead, page by page, at most `limit` jobs."""
        cursor: str | None = None
        while limit > 0:
            page = self._send(
                "GET", path, params={**params, "limit": min(limit, 500), **({"cursor": cursor} if cursor else {})}
            )
            yield from page["jobs"]
            limit -= len(page["jobs"])
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def read(self, path: str) -> Json:
        """GET any path that answers with JSON."""
        return self._send("GET", path)

    def change_job(self, job_id: str, verb: str, body: Json) -> Json:
        """POST /v1/jobs/{id}/cancel or /retry."""
        return self._send("POST", f"/v1/jobs/{quote(job_id, safe='')}/{verb}", json=body)

    def change_matching(self, verb: str, body: Json) -> Json:
        """POST /v1/jobs/cancel or /v1/jobs/retry for all that match."""
        return self._send("POST", f"/v1/jobs/{verb}", json=body, timeout=None)

    def replay_dead(self, ids: list[str], payload: bytes | None) -> Json:
        """POST /v1/dead/replay."""
        body = json.dumps({"ids": ids}).encode()
        if payload is not None:
            body = body[:-1] + b', "payload": ' + payload + b"}"
        return self._send("POST", "/v1/dead/replay", content=body, headers={"Content-Type": "application/json"})

    def purge_dead(self, body: Json) -> Json:
        """DELETE /v1/dead."""
        return self._send("DELETE", "/v1/dead", json=body)

    def health(self) -> tuple[int, Json]:
        """GET /readyz; not being ready is an answer, not an error."""
        response = self._raw("GET", "/readyz")
        return response.status_code, response.json()

    def _send(self, method: str, path: str, **options: Any) -> Json:
        response = self._request(method, path, **options)
        answer: Json = response.json()
        return answer

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        response = self._raw(method, path, **options)
        if response.is_success:
            return response
        try:
            problem = response.json()
        except ValueError:
            problem = {"detail": f"{self.server} answered {response.status_code}; is that a Quorra server?"}
        raise Refused(response.status_code, problem)

    def _raw(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **options)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise Unreachable(
                f"{self.server} does not answer ({error}). Is the server running? Name another one with --server or "
                "QUORRA_SERVER."
            ) from error
