"""Celery on Redis: results ignored, a prefork pool of one, and what its guide to optimizing names."""

import os
from collections.abc import Sequence

from celery import Celery

from benchmarks.peers.adapters.driver import QUEUE, SETTINGS, URL, BlockingAdapter, drive, payload
from benchmarks.peers.adapters.record import note

app = Celery("bench", broker=URL)
app.conf.update(task_ignore_result=True, task_default_queue=QUEUE, **SETTINGS)


@app.task(name="noop", ignore_result=True)
def noop(id: int, pad: str) -> None:
    note(id)


class OnCelery(BlockingAdapter):
    def submit(self, number: int) -> None:
        noop.apply_async(kwargs=payload(number))

    def submit_many(self, numbers: Sequence[int]) -> None:
        """Use one producer for all of them."""
        with app.producer_or_acquire() as producer:
            for number in numbers:
                noop.apply_async(kwargs=payload(number), producer=producer)

    def work(self) -> None:
        quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "ERROR"]
        name = ["--hostname", f"worker-{os.getpid()}@%h"]
        app.worker_main(["worker", "--pool", "prefork", "--concurrency", "1", *name, *quiet])


if __name__ == "__main__":
    drive(OnCelery())
