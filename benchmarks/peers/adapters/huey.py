"""Huey on Redis: no results, blocking reads, worker threads."""

import logging

from huey import RedisHuey

from benchmarks.peers.adapters.driver import QUEUE, SETTINGS, URL, BlockingAdapter, drive, payload
from benchmarks.peers.adapters.record import note

huey = RedisHuey(QUEUE, url=URL, results=False)


@huey.task(name="noop")
def noop(id: int, pad: str) -> None:
    note(id)


class OnHuey(BlockingAdapter):
    def submit(self, number: int) -> None:
        # By position: Huey takes a keyword `id` for its own.
        noop(*payload(number).values())

    def work(self) -> None:
        logging.disable(logging.ERROR)
        huey.create_consumer(workers=SETTINGS["threads"], worker_type="thread", periodic=False).run()


if __name__ == "__main__":
    drive(OnHuey())
