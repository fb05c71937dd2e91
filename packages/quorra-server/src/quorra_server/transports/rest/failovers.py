"""The route of failovers: when the database's primary changed, and what that cost."""

from sanic.response import HTTPResponse

from quorra_server.storage import failovers
from quorra_server.transports.rest import shapes
from quorra_server.transports.rest.routes import Call, Route, reply

FAILOVERS_MAX = 100


async def list_failovers(call: Call[None, None]) -> HTTPResponse:
    """List what servers found after failovers, the newest first."""
    found = await failovers.list_failovers(call.server.database.main, FAILOVERS_MAX)
    return reply(
        shapes.FailoverList(
            [
                shapes.Failover(
                    system_identifier=str(failover.system_identifier),
                    timeline=failover.timeline,
                    node=failover.node,
                    noticed_at=failover.noticed_at,
                    lost_from=failover.lost_from,
                    lost_until=failover.lost_until,
                    lost_jobs=failover.jobs,
                    lost_outcomes=failover.outcomes,
                    job_ids=list(failover.job_ids),
                )
                for failover in found
            ]
        )
    )


ROUTES = (
    Route(
        "GET",
        "/v1/failovers",
        list_failovers,
        "List failovers of the database, and what was lost",
        reply=shapes.FailoverList,
        tag="health",
    ),
)
