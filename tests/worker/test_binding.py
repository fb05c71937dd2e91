"""How payloads become arguments, and how what handlers return becomes JSON."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypedDict

import msgspec
import pydantic
import pytest
from quorra_worker_sdk import BadHandler, Cancel, Context, Dead, Retry, RetryAfter, Snooze, Worker, codec, config
from quorra_worker_sdk.handlers import BadPayload, Binding


@dataclass
class Point:
    x: int
    y: int = 0


class Order(msgspec.Struct):
    items: list[str]


class Person(TypedDict):
    name: str


class Invoice(pydantic.BaseModel):
    number: int = pydantic.Field(alias="no", gt=0)
    due: datetime


DUE = datetime(2030, 1, 2, tzinfo=UTC)
INVOICE = Invoice(no=7, due=DUE)


def plain(a: int, b: str = "b", *, c: list[int] = []) -> None: ...  # noqa: B006 - a default that must not be shared
def point(point: Point) -> None: ...
def order(order: Order) -> None: ...
def person(person: Person) -> None: ...
def invoice(invoice: Invoice) -> None: ...
def invoice_and_more(invoice: Invoice, copies: int) -> None: ...
def anything(**payload: Any) -> None: ...
def objects(event: dict[str, object], more: object = None) -> None: ...


@pytest.mark.parametrize(
    ("function", "arguments", "payload"),
    [
        (plain, {"a": 1}, b'{"a":1}'),
        (plain, {"a": 1, "b": "x", "c": [2]}, b'{"a":1,"b":"x","c":[2]}'),
        (point, {"point": Point(3)}, b'{"x":3,"y":0}'),
        (order, {"order": Order(["a"])}, b'{"items":["a"]}'),
        (person, {"person": {"name": "ada"}}, b'{"name":"ada"}'),
        (invoice, {"invoice": INVOICE}, b'{"no":7,"due":"2030-01-02T00:00:00Z"}'),
        (
            invoice_and_more,
            {"invoice": INVOICE, "copies": 2},
            b'{"invoice":{"no":7,"due":"2030-01-02T00:00:00Z"},"copies":2}',
        ),
        (anything, {"p": 1, "q": None}, b'{"p":1,"q":null}'),
        (objects, {"event": {"a": [1]}, "more": "x"}, b'{"event":{"a":[1]},"more":"x"}'),
    ],
)
def test_arguments_travel_as_json_and_come_back(function: Any, arguments: dict[str, Any], payload: bytes) -> None:
    binding = Binding(function)

    sent = binding.payload((), arguments)
    received = binding.arguments(sent)

    assert payload == sent
    assert arguments == {name: received[name] for name in arguments}


@pytest.mark.parametrize(
    ("function", "payload", "field"),
    [
        (plain, b'{"a":"one"}', "a"),
        (plain, b'{"b":"x"}', "a"),
        (plain, b'{"a":1,"cc":1}', "cc"),
        (point, b'{"x":"three"}', "x"),
        (order, b'{"items":[1]}', "items"),
        (invoice, b'{"no":0,"due":"2030-01-02T00:00:00Z"}', "no"),
        (invoice_and_more, b'{"invoice":{"no":7,"due":"soon"},"copies":2}', "due"),
    ],
)
def test_a_payload_that_does_not_fit_names_the_field(function: Any, payload: bytes, field: str) -> None:
    with pytest.raises(BadPayload, match=rf"\b{field}\b"):
        Binding(function).arguments(payload)


def test_a_default_list_is_not_shared_between_jobs() -> None:
    binding = Binding(plain)

    binding.arguments(b'{"a":1}')["c"].append(9)

    assert [] == binding.arguments(b'{"a":1}')["c"]


def test_results_may_be_models_structs_and_dataclasses() -> None:
    assert b'{"no":7,"due":"2030-01-02T00:00:00Z"}' == codec.encode(INVOICE)
    assert b'[{"x":1,"y":2}]' == codec.encode([Point(1, 2)])
    assert INVOICE == codec.convert({"no": 7, "due": "2030-01-02T00:00:00Z"}, Invoice)
    with pytest.raises(TypeError, match="object cannot be written as JSON"):
        codec.encode(object())


class Mailer:
    async def send(self, ctx: Context[Any], to: str) -> None: ...


def test_methods_are_handlers_too() -> None:
    worker = Worker("localhost:1").add("send", Mailer().send)

    assert {"to": "a"} == worker.handlers["send"].binding.arguments(b'{"to":"a"}')
    assert worker.handlers["send"].binding.takes_context


def test_what_cannot_be_a_handler_says_why() -> None:
    worker = Worker("localhost:1")

    def local() -> None: ...
    def positional(*numbers: int) -> None: ...
    def with_context(ctx: Context[Any]) -> None: ...

    for function, executor, why in (
        (Mailer(), None, "no function"),
        (positional, None, "payload keys are names"),
        (local, "process", "a function of the module"),
        (with_context, "process", "gets no context"),
        (Mailer().send, "thread", "does not fit"),
    ):
        with pytest.raises(BadHandler, match=why):
            worker.add("t", function, executor=executor)  # type: ignore[arg-type]
    worker.add("t", plain)
    with pytest.raises(BadHandler, match="has a handler already"):
        worker.add("t", plain)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("QUORRA_WORKER_MAX_JOBS", "many"),
        ("QUORRA_WORKER_MAX_JOBS", "0"),
        ("QUORRA_WORKER_QUEUES", " , "),
        ("QUORRA_WORKER_LEASE_TTL", "soon"),
        ("QUORRA_WORKER_LEASE_TTL", "100ms"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_named(variable: str, value: str) -> None:
    with pytest.raises(ValueError, match=variable):
        config.load({variable: value})


def test_the_settings_of_the_contract_have_their_defaults() -> None:
    settings = config.load({})
    given = config.load(
        {"QUORRA_WORKER_ID": "w", "QUORRA_WORKER_QUEUES": "a, b", "QUORRA_WORKER_MAX_JOBS": "9",
         "QUORRA_WORKER_LEASE_TTL": "1m", "QUORRA_GRPC_ADDR": "h:1", "QUORRA_API_KEY": "k"}
    )  # fmt: skip

    assert ("localhost:50051", ("default",), 5, 30) == (
        settings.address, settings.queues, settings.slots, settings.lease_ttl_seconds
    )  # fmt: skip
    assert settings.worker_id.startswith("worker-1-")
    assert config.load({}).worker_id != settings.worker_id
    assert ("h:1", "k", ("a", "b"), 9, 60) == (
        given.address, given.api_key, given.queues, given.slots, given.lease_ttl_seconds
    )  # fmt: skip


def test_one_name_is_not_taken_for_a_list_of_letters() -> None:
    with pytest.raises(ValueError, match="give a list of names"):
        Worker("localhost:1", queues="email")


def test_options_of_a_handler_travel_with_its_jobs() -> None:
    worker = Worker("localhost:1", queues=["a", "b"])

    @worker.job("t", queue="b", retry=Retry(max_retries=8, backoff="linear", base_seconds=5))
    async def handler(delay: int, queue: str) -> None: ...

    job = handler.options(priority=3, unique_key="k", tags=["x"]).new_job(delay=1, queue="an argument, not an option")

    assert ("t", "b", 3, "k", 8) == (job.type, job.queue, job.priority, job.unique_key, job.max_retries)
    assert b'{"delay":1,"queue":"an argument, not an option"}' == job.payload


@pytest.mark.parametrize("outcome", [Snooze(1.5, "later"), RetryAfter(2, "busy"), Cancel("no"), Dead("never")])
def test_outcomes_survive_the_way_from_another_process(outcome: Any) -> None:
    import pickle

    copy = pickle.loads(pickle.dumps(outcome))

    assert vars(outcome) == vars(copy)
    assert outcome.reason == str(copy)
