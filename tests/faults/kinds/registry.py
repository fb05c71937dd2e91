"""The registry of faults: a kind has a name, which begins with what it hurts, and a function that hurts it."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.faults.stage import Stage

Fault = Callable[[Stage, random.Random], Awaitable[int]]


WAIT_SECONDS_MAX = 20.0


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault.

    Attributes:
        holds_up: Whether leases may be reclaimed late meanwhile, since PostgreSQL or a server is away.
    """

    name: str
    fault: Fault
    holds_up: bool

    @property
    def group(self) -> str:
        """What it hurts."""
        return self.name.rpartition(".")[0]


KINDS: dict[str, Kind] = {}


def kind(name: str, *, holds_up: bool = False) -> Callable[[Fault], Fault]:
    """Return a decorator that registers a fault under a name."""

    def register(fault: Fault) -> Fault:
        KINDS[name] = Kind(name, fault, holds_up)
        return fault

    return register
