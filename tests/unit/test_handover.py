"""To whom new jobs are handed over: a worker that ends what it was given. The clock is the test's."""

from quorra_server.services.dispatch import SMALL_HANDOVER_SECONDS, SMALL_HANDOVERS_MAX, Stream

NOW = 100.0


def stream_with(batches: int) -> Stream:
    """Return a stream that was handed over so many small batches now."""
    stream = Stream(
        worker="w",
        principal="p",
        lease_ms=30_000,
        subscriptions=[],
        types=[],
        deliver=lambda _: None,
        end_leases=lambda *_: None,
    )
    stream.small_handovers.update(dict.fromkeys(range(batches), NOW))
    return stream


def test_a_worker_that_has_ended_some_of_it_keeps_up() -> None:
    stream = stream_with(SMALL_HANDOVERS_MAX)
    before = stream.keeps_up(NOW)

    del stream.small_handovers[3]

    assert (False, True) == (before, stream.keeps_up(NOW))


def test_a_worker_whose_jobs_take_long_is_not_held_to_be_busy_for_ever() -> None:
    stream = stream_with(SMALL_HANDOVERS_MAX)
    stream.small_handovers[99] = NOW + SMALL_HANDOVER_SECONDS

    assert not stream.keeps_up(NOW + SMALL_HANDOVER_SECONDS)
    assert stream.keeps_up(NOW + SMALL_HANDOVER_SECONDS + 0.001)
    assert [99] == list(stream.small_handovers)
