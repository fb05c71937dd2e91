"""Other job queues beside ours: the same jobs, the same PostgreSQL and Redis, in the same run.

Imported inside the environments of the peers too, so nothing but the standard library is imported from here.
"""

from benchmarks.peers.contestants import OURS, PEERS, Contestant

__all__ = ["OURS", "PEERS", "Contestant"]
