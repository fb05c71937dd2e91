"""The verbs: each checks, decides, runs one transaction and wakes whoever should know."""

from dataclasses import dataclass

from quorra_server.services.cancel import CancelService
from quorra_server.services.dispatch import Dispatcher
from quorra_server.services.health import HealthService
from quorra_server.services.lease import LeaseService
from quorra_server.services.loops.beat_streams import BeatStreams
from quorra_server.services.loops.close_batches import CloseBatches
from quorra_server.services.plain_workers import PlainWorkers
from quorra_server.services.purge import PurgeService
from quorra_server.services.replay import ReplayService
from quorra_server.services.reschedule import RescheduleService
from quorra_server.services.retry import RetryService
from quorra_server.services.settle import SettleService
from quorra_server.services.starts import StartsBuffer
from quorra_server.services.submit import SubmitService
from quorra_server.services.wait import WaitService


@dataclass(frozen=True, slots=True)
class Services:
    """All verbs of one server, as the transports see them."""

    submit: SubmitService
    lease: LeaseService
    plain_workers: PlainWorkers
    dispatcher: Dispatcher
    starts: StartsBuffer
    settle: SettleService
    closing: CloseBatches
    beating: BeatStreams
    cancel: CancelService
    retry: RetryService
    replay: ReplayService
    reschedule: RescheduleService
    purge: PurgeService
    wait: WaitService
    health: HealthService
