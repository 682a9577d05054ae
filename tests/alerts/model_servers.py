"""Model servers that are away, fail, refuse, or cost too much."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from itertools import count

from tests.alerts.site import Site
from tests.alerts.situation import Alert, situation
from tests.support.model_server import MODEL, Asked, ModelServer, Play, completion, error, model_server


async def _behind_a_server(site: Site, **settings: str) -> ModelServer:
    """A worker with a model server, and posts."""
    server = site.stack.enter_context(model_server())
    site.extra = {"MODERATION_MODEL": f"openai:{MODEL}", "MODERATION_MODEL__URL": server.url}
    site.extra |= {f"MODERATION_{name}": value for name, value in settings.items()}
    await site.begin()
    await site.during(site.stream(5))
    await site.judged(20)
    return server


@situation(
    Alert("ModerationModelOutage", {"cause": "unreachable"}),
    Alert("ModerationModelOutageGivenUp"),
    caused="the model server is away, for longer than MODERATION_MODEL__OUTAGE_S",
    top="the model server gives no answers",
)
async def model_server_away(site: Site) -> AsyncGenerator[None, None]:
    server = await _behind_a_server(site, MODEL__OUTAGE_S="20")
    server.down()
    site.caused()
    yield
    server.up()


@situation(
    Alert("ModerationModelBudgetSpent", {"instance": "worker-0"}),
    caused="the model server's answers cost more than the budget of an hour",
    top="the model server gives no answers (budget)",
)
async def budget_spent(site: Site) -> AsyncGenerator[None, None]:
    site.caused()
    await _behind_a_server(site, MODEL__INPUT_PRICE="1000", MODEL__BUDGET_PER_HOUR="4")
    yield
    await site.stop("worker-0")
    site.start(MODEL__BUDGET_PER_HOUR="0")


@situation(
    Alert("ModerationModelRequestsFail"),
    caused="every third request to the model server ends with 500",
)
async def model_requests_fail(site: Site) -> AsyncGenerator[None, None]:
    server = await _behind_a_server(site)
    requests = count()

    def every_third(asked: Asked) -> Play | None:
        return error(500) if next(requests) % 3 == 0 else None

    server.choose = every_third
    site.caused()
    yield
    server.choose = lambda asked: None


@situation(
    Alert("ModerationModelAnswersMissing", {"reason": "CONTENT_FILTERED"}),
    Alert("ModerationUndetermined", {"policy": "spam", "reason": "CONTENT_FILTERED"}),
    caused="a filter of the model server stops every fourth post",
)
async def model_filters(site: Site) -> AsyncGenerator[None, None]:
    server = await _behind_a_server(site)
    requests = count()

    def every_fourth(asked: Asked) -> Play | None:
        return completion(finish_reason="content_filter") if next(requests) % 4 == 0 else None

    server.choose = every_fourth
    site.caused()
    yield
    server.choose = lambda asked: None
