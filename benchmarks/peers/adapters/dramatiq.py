"""Dramatiq on Redis: one worker process with threads."""

import os
import sys

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from benchmarks.peers.adapters.driver import QUEUE, SETTINGS, URL, BlockingAdapter, drive, payload
from benchmarks.peers.adapters.record import note

dramatiq.set_broker(RedisBroker(url=URL))


@dramatiq.actor(queue_name=QUEUE)
def noop(id: int, pad: str) -> None:
    note(id)


class OnDramatiq(BlockingAdapter):
    def submit(self, number: int) -> None:
        noop.send(**payload(number))

    def work(self) -> None:
        command = [sys.executable, "-m", "dramatiq", "benchmarks.peers.adapters.dramatiq"]
        os.execv(sys.executable, [*command, "--processes", "1", "--threads", str(SETTINGS["threads"])])


if __name__ == "__main__":
    drive(OnDramatiq())
