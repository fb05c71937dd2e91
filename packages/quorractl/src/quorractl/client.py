"""The REST interface: a method for each route."""

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import quote

import httpx

from quorractl.contexts import Context
from quorractl.errors import Refused, Unreachable, UsageMistake

CALL_SECONDS = 30.0
NDJSON = "application/x-ndjson"
PORTS = range(1, 65_536)
# Visible ASCII, with spaces inside only: what every server and proxy takes as it is.
_HEADER_VALUE = re.compile(r"[!-~](?:[ -~]*[!-~])?")
Json = dict[str, Any]


class Client:
    """Talks to one server.

    Attributes:
        server: Its address, as it may be shown and kept: without a user's name and password.
    """

    def __init__(self, context: Context) -> None:
        """Take where it is; connects when it is first used.

        Raises:
            UsageMistake: The address or the key cannot be one.
        """
        address = address_of(context.server)
        # A key that was read from a file often has the end of its line with it.
        key = _header_value(context.api_key.strip(), "The API key (QUORRA_API_KEY, or that of the context)")
        self.server = str(address.copy_with(userinfo=b""))
        self._http = httpx.Client(base_url=address, headers={"X-API-Key": key} if key else {}, timeout=CALL_SECONDS)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def submit_job(self, body: bytes, idempotency_key: str | None) -> Json:
        """POST /v1/jobs; the body is JSON text as it was typed.

        Raises:
            UsageMistake: No header can carry the idempotency key.
        """
        headers = {"Content-Type": "application/json"}
        if idempotency_key is not None:
            headers["Idempotency-Key"] = _header_value(idempotency_key, "--idempotency-key")
        return self._send("POST", "/v1/jobs", content=body, headers=headers)

    def import_jobs(self, lines: list[bytes]) -> list[Json]:
        """POST /v1/jobs/batch as NDJSON; one answer for each line that is not blank, in their order.

        Raises:
            Unreachable: Not every line was answered; any of them may be recorded.
        """
        body = b"".join(line.rstrip(b"\n") + b"\n" for line in lines)
        response = self._request("POST", "/v1/jobs/batch", content=body, headers={"Content-Type": NDJSON})
        asked = [number for number, line in enumerate(lines, 1) if line.strip()]
        with contextlib.suppress(ValueError, LookupError, TypeError):
            answers: list[Json] = [json.loads(line) for line in response.content.split(b"\n") if line]
            if asked == [answer["line"] for answer in answers]:
                return answers
        raise Unreachable(
            f"{self.server} did not answer every line. If it is a Quorra server, the answer was cut off: import again. "
            "If not, name another one with --server or QUORRA_SERVER."
        )

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
        return response.status_code, self._object_of(response)

    def _send(self, method: str, path: str, **options: Any) -> Json:
        return self._object_of(self._request(method, path, **options))

    def _request(self, method: str, path: str, **options: Any) -> httpx.Response:
        response = self._raw(method, path, **options)
        if response.is_success:
            return response
        raise Refused(response.status_code, self._object_of(response))

    def _object_of(self, response: httpx.Response) -> Json:
        """Return the JSON object that the server answered with.

        Raises:
            Refused: It is none: somebody else answered, such as a proxy.
        """
        with contextlib.suppress(ValueError, RecursionError):
            answer = response.json()
            if isinstance(answer, dict):
                return answer
        detail = (
            f"{self.server} answered {response.status_code} without a JSON object; is that a Quorra server? Look at "
            "what stands before it, or name another one with --server or QUORRA_SERVER."
        )
        raise Refused(response.status_code, {"detail": detail})

    def _raw(self, method: str, path: str, **options: Any) -> httpx.Response:
        try:
            return self._http.request(method, path, **options)
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise Unreachable(
                f"{self.server} does not answer ({error}). Is the server running? Name another one with --server or "
                "QUORRA_SERVER."
            ) from error


def address_of(text: str) -> httpx.URL:
    """Return the address of a server.

    Raises:
        UsageMistake: It cannot be one. The text is not repeated, since there may be a password in it.
    """
    with contextlib.suppress(httpx.InvalidURL):
        address = httpx.URL(text)
        if address.scheme in ("http", "https") and address.host and (address.port is None or address.port in PORTS):
            return address
    raise UsageMistake(
        "The address of the server (--server, QUORRA_SERVER, or that of the context) cannot be read; write it like "
        "https://quorra.example.com or http://localhost:8080."
    )


def _header_value(text: str, what: str) -> str:
    if text and not _HEADER_VALUE.fullmatch(text):
        raise UsageMistake(
            f"{what} has characters that a header cannot carry; give visible ASCII characters, without spaces around "
            "them."
        )
    return text
