"""How many HTTP connections there may be, in all and from one address."""

from collections import Counter

from quorra_server.domain.errors import Overloaded
from quorra_server.observability.metrics import Metrics

RETRY_SECONDS = 1


class Admission:
    """Counts the open connections of one server process."""

    def __init__(self, connections_max: int, per_address_max: int, metrics: Metrics) -> None:
        """Take the bounds; 0 for one address means no bound of its own."""
        self._connections_max = connections_max
        self._per_address_max = per_address_max
        self._metrics = metrics
        self._open = 0
        self._by_address: Counter[str] = Counter()

    def enter(self, address: str) -> None:
        """Count a connection in.

        Raises:
            Overloaded: There are as many already as may be; it is not counted.
        """
        if self._open >= self._connections_max:
            self._metrics.connections_refused.labels("all").inc()
            raise Overloaded(
                f"The server has {self._open:,} HTTP connections, as many as it takes (QUORRA_HTTP_CONNECTIONS_MAX); "
                "close idle ones, or try again shortly.",
                retry_after_seconds=RETRY_SECONDS,
            )
        if self._per_address_max and self._by_address[address] >= self._per_address_max:
            self._metrics.connections_refused.labels("address").inc()
            raise Overloaded(
                f"Your address has {self._by_address[address]:,} HTTP connections, as many as the server takes from "
                "one (QUORRA_HTTP_CONNECTIONS_PER_ADDRESS_MAX); use fewer and keep them open.",
                retry_after_seconds=RETRY_SECONDS,
            )
        self._open += 1
        self._by_address[address] += 1
        self._metrics.http_connections.set(self._open)

    def leave(self, address: str) -> None:
        """Count a connection out."""
        self._open -= 1
        self._by_address[address] -= 1
        if not self._by_address[address]:
            del self._by_address[address]
        self._metrics.http_connections.set(self._open)
