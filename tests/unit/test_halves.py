"""Taking apart what met a bug together: the culprits are found, and nobody else stays behind."""

from collections.abc import Sequence

import pytest
from quorra_server.domain.errors import StorageUnavailable
from quorra_server.services.halves import by_halves


class Work:
    """Sums numbers; a negative one is a bug, and zero an outage."""

    def __init__(self) -> None:
        self.calls = 0
        self.blamed: list[int] = []

    async def __call__(self, numbers: Sequence[int]) -> int:
        self.calls += 1
        if 0 in numbers:
            raise StorageUnavailable("away")
        if min(numbers) < 0:
            raise ValueError(min(numbers))
        return sum(numbers)

    def blame(self, number: int, bug: Exception) -> None:
        assert str(number) == str(bug)
        self.blamed.append(number)

    async def apart(self, numbers: Sequence[int]) -> int:
        return sum([part async for part in by_halves(self, numbers, ValueError(min(numbers)), self.blame)])


@pytest.mark.parametrize("culprits", [[1], [500], [1000], [3, 4, 900], list(range(1, 1001))])
async def test_whoever_meets_the_bug_alone_is_blamed_and_the_work_of_all_others_is_done(culprits: list[int]) -> None:
    work = Work()

    done = await work.apart([-number if number in culprits else number for number in range(1, 1001)])

    assert sum(set(range(1, 1001)) - set(culprits)) == done
    assert [-number for number in culprits] == sorted(work.blamed, reverse=True)


async def test_one_culprit_among_a_thousand_costs_twenty_calls_and_one_alone_none() -> None:
    many, one = Work(), Work()

    await many.apart([*range(1, 1000), -1000])
    await one.apart([-1])

    assert (20, 0) == (many.calls, one.calls)


async def test_an_outage_is_nobodys_fault_and_is_told() -> None:
    work = Work()

    with pytest.raises(StorageUnavailable):
        await work.apart([1, -2, 0, 4])

    assert [] == work.blamed
