"""How long recovery took: of a lease that ended, of PostgreSQL's return, of each fault, in seconds."""

import bisect
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from tests.faults.judging.fold import Reclaim

Distribution = dict[str, float]

LEASED_AGAIN = "a worker's lease ends (and its job's back-off), to the job's next lease, s"
BACK = "{} is back, to next accepted submission, s"
# How long recovery may take at most, and the share of cases of which this is asked.
LIMITS = {LEASED_AGAIN: ("p99", 2.0), BACK.format("PostgreSQL"): ("p99", 2.0)}
SHARES = {"p50": 0.5, "p95": 0.95, "p99": 0.99, "max": 1.0}


class Recovery:
    """Measures from the moments that the clients, the faults and PostgreSQL's log have written down."""

    def __init__(
        self,
        accepted_at: Iterable[float],
        faults: Sequence[dict[str, Any]],
        returns: Sequence[tuple[str, float]],
        reclaims: Sequence[Reclaim],
        quiet_reclaims: Sequence[float],
    ) -> None:
        """Take when submissions were accepted, the faults, and who came back when.

        Args:
            reclaims: Leases that were taken away after their end.
            quiet_reclaims: How long that took with PostgreSQL and the servers there.
        """
        self._accepted_at = sorted(accepted_at)
        self._faults = [fault for fault in faults if fault["hits"]]
        self._returns = returns
        self._reclaims = reclaims
        self._quiet_reclaims = quiet_reclaims

    def distributions(self) -> dict[str, Distribution]:
        """Return how each thing that recovers did, by its name."""
        found = {**self._of_leases(), **self._of_returns(), **self._of_groups()}
        return {name: figures for name, figures in found.items() if figures}

    def of_kinds(self) -> dict[str, Distribution]:
        """Return for each kind of fault how long after its end a submission was accepted again."""
        ends: dict[str, list[float]] = defaultdict(list)
        for fault in self._faults:
            ends[fault["kind"]].append(fault["ended"])
        found = {kind: self._to_next_accepted(moments) for kind, moments in sorted(ends.items())}
        return {kind: figures for kind, figures in found.items() if figures}

    def slow(self) -> list[str]:
        """Return what took longer than it may.

        Where PostgreSQL or servers were away, jobs wait in line behind those that gathered meanwhile: how soon one runs
        again then says how long the line was.
        """
        found = self.distributions()
        waits_in_line = any(fault["holds_up"] for fault in self._faults)
        return [
            f"{name}: {share} is {found[name][share]:g} s of at most {limit:g} s"
            for name, (share, limit) in LIMITS.items()
            if name in found and found[name][share] > limit and not (name == LEASED_AGAIN and waits_in_line)
        ]

    def _of_leases(self) -> dict[str, Distribution]:
        return {
            "lease end to reclaim, s": distribution(self._quiet_reclaims),
            "the same, with PostgreSQL or servers away": distribution(
                [reclaim.ended_at - reclaim.expires_at for reclaim in self._reclaims]
            ),
            LEASED_AGAIN: distribution(
                [
                    reclaim.leased_again_at - max(reclaim.expires_at, reclaim.retry_at or 0.0)
                    for reclaim in self._reclaims
                    if reclaim.leased_again_at is not None and not reclaim.worker.startswith("plain")
                ]
            ),
        }

    def _of_returns(self) -> dict[str, Distribution]:
        moments: dict[str, list[float]] = defaultdict(list)
        for what, at in self._returns:
            moments[what].append(at)
        return {BACK.format(what): self._to_next_accepted(moments[what]) for what in sorted(moments)}

    def _of_groups(self) -> dict[str, Distribution]:
        """Return the same for groups of kinds of which one may hold up PostgreSQL or the servers."""
        names = sorted({_group(fault) for fault in self._faults if fault["holds_up"]})
        ends = {name: [fault["ended"] for fault in self._faults if _group(fault) == name] for name in names}
        return {
            f"{name} fault is over, to next accepted submission, s": self._to_next_accepted(moments)
            for name, moments in ends.items()
        }

    def _to_next_accepted(self, moments: Iterable[float]) -> Distribution:
        places = [(at, bisect.bisect_left(self._accepted_at, at)) for at in moments]
        return distribution([self._accepted_at[place] - at for at, place in places if place < len(self._accepted_at)])


def _group(fault: dict[str, Any]) -> str:
    return str(fault["kind"]).rpartition(".")[0]


def distribution(values: Sequence[float]) -> Distribution:
    """Return how many there are, their percentiles and the largest; nothing of nothing."""
    if not values:
        return {}
    ordered = sorted(values)
    last = len(ordered) - 1
    return {
        "count": len(ordered),
        **{name: round(ordered[min(last, int(share * len(ordered)))], 3) for name, share in SHARES.items()},
    }
