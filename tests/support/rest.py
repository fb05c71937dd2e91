"""REST in the words of tests: submit, read, wait for a status."""

from typing import Any

import httpx

from tests.support.processes import NO_TLS, RunningServer
from tests.support.waiting import eventually_sync


class Rest:
    """One server's REST interface."""

    def __init__(self, server: RunningServer) -> None:
        self.http = httpx.Client(base_url=server.http_url, headers=server.headers, timeout=40, verify=NO_TLS)

    def submit(self, type: str, payload: dict[str, Any] | None = None, **fields: Any) -> str:
        reply = self.http.post("/v1/jobs", json={"type": type, "payload": payload or {}, **fields})
        assert reply.is_success, reply.text
        return str(reply.json()["id"])

    def submit_many(self, count: int, type: str, queue: str = "default", **fields: Any) -> list[str]:
        jobs = [{"type": type, "payload": {"n": number}, "queue": queue, **fields} for number in range(count)]
        reply = self.http.post("/v1/jobs/batch", json={"jobs": jobs})
        assert reply.is_success, reply.text
        return [job["id"] for job in reply.json()["jobs"]]

    def job(self, job_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get(f"/v1/jobs/{job_id}").json()
        return found

    def ended(self, job_id: str, seconds: int = 30) -> dict[str, Any]:
        """Wait for the end of a job's life and return it."""
        found: dict[str, Any] = self.http.get(f"/v1/jobs/{job_id}", params={"wait": f"{seconds}s"}).json()
        assert found["status"] in ("succeeded", "dead", "cancelled"), found
        return found

    def until(self, job_id: str, status: str, timeout: float = 20) -> dict[str, Any]:
        """Wait until a job has a status and return it."""

        def look() -> dict[str, Any] | None:
            found = self.job(job_id)
            return found if found["status"] == status else None

        found = eventually_sync(look, f"job {job_id} is {status}", timeout=timeout)
        assert found is not None
        return found

    def history(self, job_id: str) -> list[str]:
        attempts = self.http.get(f"/v1/jobs/{job_id}/history").json()["attempts"]
        return [attempt["outcome"] for attempt in attempts]

    def count(self, queue: str, status: str) -> int:
        entries = self.http.get("/v1/queues").json()["queues"]
        return sum(entry["count"] for entry in entries if (entry["queue"], entry["status"]) == (queue, status))

    def until_count(self, queue: str, status: str, count: int, timeout: float = 60) -> None:
        eventually_sync(
            lambda: self.count(queue, status) >= count, f"{count} jobs of {queue} are {status}", timeout=timeout
        )
