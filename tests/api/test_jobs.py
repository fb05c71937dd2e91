"""What producers and operators do over REST."""

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

import httpx
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from tests.support.locks import is_held_up, locked
from tests.support.processes import RunningServer
from tests.support.waiting import eventually


def _submit(api: httpx.Client, queue: str, **fields: Any) -> dict[str, Any]:
    reply = api.post("/v1/jobs", json={"type": "t", "payload": {}, "queue": queue, **fields})
    assert reply.is_success, reply.text
    answer: dict[str, Any] = reply.json()
    return answer


def test_a_submission_is_201_with_id_status_and_run_at(api: httpx.Client, queue_name: str) -> None:
    reply = api.post("/v1/jobs", json={"type": "email_send", "payload": {"to": "a@b.c"}, "queue": queue_name})

    assert 201 == reply.status_code
    assert {"id", "status", "run_at"} == reply.json().keys()
    assert "pending" == reply.json()["status"]


def test_queues_are_listed_exactly_as_promised(api: httpx.Client, queue_name: str) -> None:
    _submit(api, queue_name)

    reply = api.get("/v1/queues").json()

    assert ["queues"] == list(reply)
    assert {"queue": queue_name, "status": "pending", "count": 1} in reply["queues"]


def test_a_delayed_job_has_its_time_and_is_pending(api: httpx.Client, queue_name: str) -> None:
    answer = _submit(api, queue_name, delay_seconds=3600)

    ahead = datetime.fromisoformat(answer["run_at"]) - datetime.now(UTC)
    assert 3590 < ahead.total_seconds() < 3610
    assert "pending" == answer["status"]


@pytest.mark.parametrize(
    "payload",
    [
        '{"b":1,"a":2.50,"big":1e400,"exact":12345678901234567890123,"twice":1,"twice":2}',
        '{ "space" :  [ 1 , 2 ] , "text": "\\u00e9\\ud83d\\ude00 é" }',
        "{}",
    ],
)
def test_a_payload_is_kept_exactly_as_it_was_sent(api: httpx.Client, queue_name: str, payload: str) -> None:
    body = f'{{"type":"t","queue":"{queue_name}","payload":{payload}}}'
    submitted = api.post("/v1/jobs", content=body.encode(), headers={"Content-Type": "application/json"}).json()

    assert f'"payload":{payload},' in api.get(f"/v1/jobs/{submitted['id']}").text


def test_the_same_idempotency_key_gives_the_same_job_and_another_body_a_409(api: httpx.Client, queue_name: str) -> None:
    headers = {"Idempotency-Key": f"key-{queue_name}"}
    body = {"type": "t", "payload": {"n": 1}, "queue": queue_name}

    first = api.post("/v1/jobs", json=body, headers=headers)
    again = api.post("/v1/jobs", json=body, headers=headers)
    other = api.post("/v1/jobs", json={**body, "payload": {"n": 2}}, headers=headers)

    assert [201, 200, 409] == [first.status_code, again.status_code, other.status_code]
    assert (first.json()["id"], True) == (again.json()["id"], again.json()["existing"])
    assert "key_reused" == other.json()["code"]


def test_many_at_once_with_one_key_make_one_job(api: httpx.Client, queue_name: str) -> None:
    body = {"type": "t", "payload": {}, "queue": queue_name, "unique_key": f"unique-{queue_name}"}

    with ThreadPoolExecutor(16) as threads:
        replies = list(threads.map(lambda _: api.post("/v1/jobs", json=body), range(32)))

    assert {200, 201} == {reply.status_code for reply in replies}
    assert 1 == sum(reply.status_code == 201 for reply in replies)
    assert 1 == len({reply.json()["id"] for reply in replies})


def test_a_request_that_a_unique_key_merged_is_answered_the_same_when_it_comes_again(
    api: httpx.Client, queue_name: str
) -> None:
    """A unique key merges any work, so the repetition is no other use of the idempotency key, whatever it carries."""
    unique_key = f"unique-{queue_name}"
    holder = _submit(api, queue_name, payload={"n": 1}, unique_key=unique_key)["id"]
    body = {"type": "t", "payload": {"n": 2}, "queue": queue_name, "unique_key": unique_key}
    headers = {"Idempotency-Key": f"key-{queue_name}"}

    replies = [api.post("/v1/jobs", json=body, headers=headers) for _ in range(2)]
    api.post(f"/v1/jobs/{holder}/cancel")
    replies.append(api.post("/v1/jobs", json=body, headers=headers))

    assert [(200, holder)] * 3 == [(reply.status_code, reply.json().get("id")) for reply in replies]


def test_an_idempotency_key_that_made_a_job_with_a_unique_key_takes_no_other_body(
    api: httpx.Client, queue_name: str
) -> None:
    headers = {"Idempotency-Key": f"key-{queue_name}"}
    body = {"type": "t", "payload": {"n": 1}, "queue": queue_name, "unique_key": f"unique-{queue_name}"}

    first = api.post("/v1/jobs", json=body, headers=headers)
    other = api.post("/v1/jobs", json={**body, "payload": {"n": 2}}, headers=headers)

    assert (201, 409, "key_reused") == (first.status_code, other.status_code, other.json()["code"])


def test_an_id_of_the_callers_makes_repeating_safe(api: httpx.Client, queue_name: str) -> None:
    body = {"type": "t", "payload": {}, "queue": queue_name, "id": "0197a1b2-0000-7000-8000-0000000000aa"}

    replies = [api.post("/v1/jobs", json=body), api.post("/v1/jobs", json=body)]
    other = api.post("/v1/jobs", json={**body, "type": "another"})

    assert [201, 200, 409] == [*(reply.status_code for reply in replies), other.status_code]


def test_a_repeat_of_an_id_leaves_a_job_that_ended_alone(api: httpx.Client, queue_name: str) -> None:
    job = {"type": "task", "payload": {}, "queue": queue_name, "id": str(uuid4())}
    api.post("/v1/jobs", json=job)
    api.post(f"/v1/jobs/{job['id']}/cancel")

    again = api.post("/v1/jobs", json=job)

    assert (200, True) == (again.status_code, again.json()["existing"])
    assert "cancelled" == api.get(f"/v1/jobs/{job['id']}").json()["status"]


def test_a_repeat_of_an_id_that_ended_does_not_take_its_unique_key_again(api: httpx.Client, queue_name: str) -> None:
    job = {"type": "task", "payload": {}, "queue": queue_name, "unique_key": f"key-of-{queue_name}"}
    ended = {**job, "id": str(uuid4())}
    api.post("/v1/jobs", json=ended)
    api.post(f"/v1/jobs/{ended['id']}/cancel")

    api.post("/v1/jobs", json=ended)
    new = api.post("/v1/jobs", json=job)

    assert 201 == new.status_code


def test_a_batch_answers_in_the_order_given(api: httpx.Client, queue_name: str) -> None:
    jobs = [{"type": f"t{number}", "payload": {}, "queue": queue_name} for number in range(1000)]

    answers = api.post("/v1/jobs/batch", json={"jobs": jobs}).json()["jobs"]

    assert 1000 == len({answer["id"] for answer in answers})
    for number in (0, 500, 999):
        assert f"t{number}" == api.get(f"/v1/jobs/{answers[number]['id']}").json()["type"]


def test_a_batch_over_its_limit_is_413(api: httpx.Client) -> None:
    reply = api.post("/v1/jobs/batch", json={"jobs": [{"type": "t", "payload": {}}] * 10_001})

    assert (413, "jobs") == (reply.status_code, reply.json()["field"])


def test_an_import_answers_line_by_line_and_bad_lines_do_not_spoil_good_ones(
    api: httpx.Client, queue_name: str
) -> None:
    good = json.dumps({"type": "t", "payload": {}, "queue": queue_name}).encode()
    lines = [good] * 1200 + [b"{bad", b"", b'{"type":"","payload":{}}', good]

    reply = api.post("/v1/jobs/batch", content=b"\n".join(lines), headers={"Content-Type": "application/x-ndjson"})

    answers = [json.loads(line) for line in reply.text.splitlines()]
    assert 200 == reply.status_code
    assert [*range(1, 1202), 1203, 1204] == [answer["line"] for answer in answers]
    assert [1201, 1203] == [answer["line"] for answer in answers if "error" in answer]
    assert 1201 == api.get(f"/v1/queues/{queue_name}").json()["counts"]["pending"]


def test_lists_page_through_everything_once(api: httpx.Client, queue_name: str) -> None:
    ids = {_submit(api, queue_name)["id"] for _ in range(7)}

    seen: list[str] = []
    cursor = None
    while True:
        page = api.get("/v1/jobs", params={"queue": queue_name, "limit": 3, **({"cursor": cursor} if cursor else {})})
        seen.extend(job["id"] for job in page.json()["jobs"])
        cursor = page.json()["next_cursor"]
        if cursor is None:
            break

    assert (7, ids) == (len(seen), set(seen))


def test_lists_filter_by_type_tag_payload_and_time(api: httpx.Client, queue_name: str) -> None:
    wanted = _submit(api, queue_name, type="mail", tags=["vip"], payload={"to": {"name": "ada"}, "n": 1})["id"]
    _submit(api, queue_name, payload={"to": {"name": "bob"}, "big": 1})

    def ids(**params: str) -> list[str]:
        return [job["id"] for job in api.get("/v1/jobs", params={"queue": queue_name, **params}).json()["jobs"]]

    assert [wanted] == ids(type="mail") == ids(tag="vip") == ids(payload='{"to":{"name":"ada"}}')
    assert 2 == len(ids(status="pending", created_after="2020-01-01T00:00:00Z"))
    assert [] == ids(created_before="2020-01-01T00:00:00Z")


def test_cancel_is_final_twice_is_fine_and_retry_then_is_a_409(api: httpx.Client, queue_name: str) -> None:
    job_id = _submit(api, queue_name)["id"]

    replies = [api.post(f"/v1/jobs/{job_id}/cancel", json={"reason": "typo"}), api.post(f"/v1/jobs/{job_id}/cancel")]
    retried = api.post(f"/v1/jobs/{job_id}/retry")

    assert [(200, "cancelled")] * 2 == [(reply.status_code, reply.json()["status"]) for reply in replies]
    assert (409, "illegal_transition") == (retried.status_code, retried.json()["code"])


@pytest.mark.parametrize("path", ["/v1/jobs/00000000-0000-7000-8000-000000000000/retry", "/v1/jobs/retry"])
def test_a_retry_takes_no_reason_since_none_is_kept(api: httpx.Client, path: str) -> None:
    filtered = {"filter": {"queue": "never-used"}} if path == "/v1/jobs/retry" else {}

    reply = api.post(path, json={**filtered, "reason": "the printer is back"})

    assert (422, "reason") == (reply.status_code, reply.json()["field"])


def test_retry_runs_a_delayed_job_now(api: httpx.Client, queue_name: str) -> None:
    job_id = _submit(api, queue_name, delay_seconds=3600)["id"]

    job = api.post(f"/v1/jobs/{job_id}/retry").json()

    assert datetime.fromisoformat(job["run_at"]) <= datetime.now(UTC)


def test_a_bulk_verb_counts_first_and_then_changes_what_matches(api: httpx.Client, queue_name: str) -> None:
    for _ in range(5):
        _submit(api, queue_name)
    request = {"filter": {"queue": queue_name, "status": "pending"}}

    counted = api.post("/v1/jobs/cancel", json={**request, "dry_run": True}).json()
    done = api.post("/v1/jobs/cancel", json=request).json()

    assert {"matched": 5, "changed": 0, "dry_run": True} == counted
    assert {"matched": 5, "changed": 5, "dry_run": False} == done


def test_a_waiting_job_can_be_changed(api: httpx.Client, queue_name: str) -> None:
    job_id = _submit(api, queue_name)["id"]

    job = api.patch(f"/v1/jobs/{job_id}", json={"priority": 7, "max_retries": 9, "delay_seconds": 60}).json()

    assert (7, 9, "pending") == (job["priority"], job["max_retries"], job["status"])


def test_a_queue_has_a_backoff_of_its_own_and_can_be_purged(api: httpx.Client, queue_name: str) -> None:
    _submit(api, queue_name)

    shown = api.put(f"/v1/queues/{queue_name}", json={"backoff": {"kind": "fixed", "base_seconds": 5}}).json()
    purged = api.delete(f"/v1/queues/{queue_name}/jobs").json()

    assert ("fixed", 5.0) == (shown["backoff"]["kind"], shown["backoff"]["base_seconds"])
    assert {"purged": 1} == purged


def test_the_metrics_that_are_promised_are_there(
    shared_server: RunningServer, queue_name: str, api: httpx.Client
) -> None:
    _submit(api, queue_name)

    text = httpx.get(f"{shared_server.http_url}/metrics").text

    for name in ("created", "processed", "failed", "dead", "leased"):
        assert f"# TYPE quorra_jobs_{name}_total counter" in text
    assert f'quorra_job_queue_length{{queue="{queue_name}",status="pending"}} 1.0' in text
    assert f'quorra_jobs_created_total{{queue="{queue_name}"}} 1.0' in text


def test_openapi_describes_every_route(api: httpx.Client) -> None:
    from quorra_server.transports.rest.server import ROUTES

    document = api.get("/openapi.json").json()

    OpenAPIV31SpecValidator(document).validate()
    described = {(method.upper(), path) for path, verbs in document["paths"].items() for method in verbs}
    assert {(route.method, route.path.replace("<", "{").replace(":str>", "}")) for route in ROUTES} == described
    references = set(json.dumps(document).split('"#/components/schemas/')[1:])
    assert {text.partition('"')[0] for text in references} <= document["components"]["schemas"].keys()
    assert 200 == api.get("/docs").status_code


async def test_a_submission_is_answered_when_it_is_durable_and_not_before(
    shared_server: RunningServer, queue_name: str
) -> None:
    job = {"type": "t", "queue": queue_name, "payload": {}}
    headers = {"X-API-Key": shared_server.api_key}
    async with httpx.AsyncClient(base_url=shared_server.http_url, headers=headers) as client:
        async with locked(shared_server, "quorra.jobs"):
            submission = asyncio.create_task(client.post("/v1/jobs", json=job))
            await eventually(lambda: is_held_up(shared_server, "quorra.jobs"), "the submission waits")

            early, _ = await asyncio.wait({submission}, timeout=0.3)

        assert not early
        assert 201 == (await submission).status_code
