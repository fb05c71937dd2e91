"""Every metric, with its unit and labels, in one list. Labels are bounded: never an id, at most `QUEUES_MAX` queues."""

import os
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from quorra_server.domain.states import JobStatus

# Set by a supervisor, before the library is imported: where its processes keep their counts.
SHARED_FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
QUEUES_MAX = 200
OTHER_QUEUES = "(other)"

WAIT_BUCKETS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200)
RUN_BUCKETS_SECONDS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10, 30, 60, 300, 1800, 7200)
LAG_BUCKETS_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
BATCH_BUCKETS = (1, 2, 5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000)


class BatchHistogram(Histogram):
    """A histogram that takes the values of a whole batch at once: its cost is in the batch, not in each job."""

    def observe_many(self, values: Sequence[float]) -> None:
        """Add values. Most batches fall into one bucket, which the smallest and the largest value tell."""
        if not values:
            return
        bounds, buckets = self._upper_bounds, self._buckets
        lowest, highest = bisect_left(bounds, min(values)), bisect_left(bounds, max(values))
        if lowest == highest:
            buckets[lowest].inc(len(values))
        else:
            counts = [0] * len(bounds)
            for value in values:
                counts[bisect_left(bounds, value)] += 1
            for bucket, count in zip(buckets, counts, strict=True):
                if count:
                    bucket.inc(count)
        self._sum.inc(sum(values))


class AskedGauge(Collector):
    """A gauge that only the process that is scraped answers for; one of the library would be in the shared folder too.

    Without labels it begins at zero, with labels at nothing.
    """

    def __init__(self, name: str, meaning: str, *labels: str) -> None:
        """Take the names of its labels."""
        self._name, self._meaning, self._labels = name, meaning, labels
        self._values: dict[tuple[str, ...], float] = {} if labels else {(): 0.0}

    def set(self, value: float, *labels: str) -> None:
        """Set the value for these values of its labels."""
        self._values[labels] = value

    def clear(self) -> None:
        """Forget all values."""
        self._values.clear()

    def collect(self) -> Iterator[Metric]:
        """Yield it for a scrape."""
        family = GaugeMetricFamily(self._name, self._meaning, labels=self._labels)
        for labels, value in self._values.items():
            family.add_metric(labels, value)
        yield family


class BuildInfo(Collector):
    """Which server, and which version of it, answers a scrape."""

    def __init__(self, version: str, node: str) -> None:
        """Take both."""
        self._said = {"version": version, "node": node}

    def collect(self) -> Iterator[Metric]:
        """Yield it for a scrape."""
        yield InfoMetricFamily("quorra_build", "Version and name of this server", value=self._said)


class Metrics:
    """The metrics of one server: of all its processes, where a supervisor runs several.

    Attributes:
        counted: What each process counts for itself; a scrape of any of them answers with the sum over all.
        asked: What the process that is scraped asks the database for, or says of itself.
    """

    def __init__(self, version: str, node: str) -> None:
        """Create all metrics at zero."""
        self.counted = CollectorRegistry()
        self.asked = CollectorRegistry()
        self._queues: set[str] = set()
        self.jobs_created = self._counter("quorra_jobs_created_total", "Jobs accepted", "queue")
        self.jobs_leased = self._counter("quorra_jobs_leased_total", "Jobs given to a worker", "queue")
        self.jobs_handed_over = self._counter(
            "quorra_jobs_handed_over_total", "Of these, jobs leased by the commit that recorded them", "queue"
        )
        self.jobs_processed = self._counter(
            "quorra_jobs_processed_total", "Attempts that ended, well or badly", "queue"
        )
        self.jobs_failed = self._counter("quorra_jobs_failed_total", "Attempts that failed", "queue")
        self.jobs_dead = self._counter("quorra_jobs_dead_total", "Jobs that ran out of retries", "queue")
        self.leases_expired = self._counter("quorra_leases_expired_total", "Leases that ran out", "queue")
        self.runs_timed_out = self._counter(
            "quorra_runs_timed_out_total", "Runs ended by the server because their worker did not stop them", "queue"
        )
        self.stale_acks = self._counter("quorra_stale_acks_total", "Reports refused because the lease was lost")
        self.incidents = self._counter(
            "quorra_incidents_total",
            "Reports refused, and lease batches and waiting jobs parked, because of a bug of the server's",
            "at",
        )
        self.failovers = self._counter("quorra_failovers_total", "Changes of the primary that this server noticed")
        self.lost_jobs = self._counter(
            "quorra_lost_jobs_total", "Submissions that were acknowledged and are gone after a failover"
        )
        self.lost_outcomes = self._counter(
            "quorra_lost_outcomes_total", "Outcomes that were accepted and are gone after a failover"
        )
        self.timeline = Gauge(
            "quorra_database_timeline",
            "The timeline of the primary; a promotion or a restore begins the next one",
            registry=self.counted,
            multiprocess_mode="livemin",
        )
        self.queue_length = AskedGauge("quorra_job_queue_length", "Jobs by queue and status", "queue", "status")
        self.oldest_waiting = AskedGauge("quorra_oldest_waiting_job_seconds", "How long the oldest due job has waited")
        self.oldest_snapshot = AskedGauge(
            "quorra_oldest_snapshot_seconds", "How long the oldest snapshot has kept deleted rows from being removed"
        )
        for collector in (self.queue_length, self.oldest_waiting, self.oldest_snapshot, BuildInfo(version, node)):
            self.asked.register(collector)
        self.wait_seconds = BatchHistogram(
            "quorra_job_wait_seconds",
            "From when a job was due to when it was leased",
            buckets=WAIT_BUCKETS_SECONDS,
            registry=self.counted,
        )
        self.run_seconds = BatchHistogram(
            "quorra_job_run_seconds", "How long attempts ran", buckets=RUN_BUCKETS_SECONDS, registry=self.counted
        )
        self.submit_batch = self._histogram("quorra_submit_batch_jobs", "Jobs in one insert", BATCH_BUCKETS)
        self.lease_batch = self._histogram("quorra_lease_batch_jobs", "Jobs in one lease", BATCH_BUCKETS)
        self.settle_batch = self._histogram("quorra_settle_batch_jobs", "Reports in one settle", BATCH_BUCKETS)
        self.loop_lag_seconds = self._histogram(
            "quorra_event_loop_lag_seconds", "How late the event loop comes to what is due", LAG_BUCKETS_SECONDS
        )
        self.http_connections = self._gauge("quorra_http_connections", "Open HTTP connections")
        self.connections_refused = self._counter(
            "quorra_http_connections_refused_total", "HTTP connections too many, by the limit they met", "limit"
        )
        self.streams = self._gauge("quorra_worker_streams", "Open worker streams")
        self.pool_connections = self._gauge("quorra_database_connections", "Connections to PostgreSQL", "pool", "state")
        self.wakeup_path = Gauge(
            "quorra_wakeup_path_up",
            "Whether a path for wake-ups works",
            ["path"],
            registry=self.counted,
            multiprocess_mode="livemin",  # up means that all processes hear by it
        )
        self.wakeups_received = Counter(
            "quorra_wakeups_received_total", "Wake-ups from other servers", ["path"], registry=self.counted
        )
        self.cursor_leases = self._counter(
            "quorra_cursor_leases_total",
            "Leases that went on where the last one ended, because that was full or slow",
            "queue",
        )

    def text(self) -> bytes:
        """Return everything in Prometheus's own format."""
        counted = self.counted
        if os.environ.get(SHARED_FOLDER_VARIABLE):
            counted = CollectorRegistry()
            MultiProcessCollector(counted)  # type: ignore[no-untyped-call]
        return generate_latest(counted) + generate_latest(self.asked)

    def queue(self, name: str) -> str:
        """Return the label value for a queue: its name, or one name for all queues past the first `QUEUES_MAX`."""
        if name in self._queues:
            return name
        if len(self._queues) >= QUEUES_MAX:
            return OTHER_QUEUES
        self._queues.add(name)
        return name

    def set_queue_lengths(self, counts: Mapping[str, Mapping[JobStatus, int]]) -> None:
        """Replace the gauge of jobs by queue and status."""
        sums: dict[tuple[str, str], int] = {}
        for name, by_status in counts.items():
            for status, count in by_status.items():
                key = (self.queue(name), status.value)
                sums[key] = sums.get(key, 0) + count
        self.queue_length.clear()
        for labels, count in sums.items():
            self.queue_length.set(count, *labels)

    def _counter(self, name: str, meaning: str, *labels: str) -> Counter:
        return Counter(name, meaning, labels, registry=self.counted)

    def _gauge(self, name: str, meaning: str, *labels: str) -> Gauge:
        return Gauge(name, meaning, labels, registry=self.counted, multiprocess_mode="livesum")

    def _histogram(self, name: str, meaning: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(name, meaning, buckets=buckets, registry=self.counted)
