"""All paths of the agent's HTTP port, put together into one FastAPI application."""

from typing import Any

from fastapi import FastAPI
from starlette.middleware.gzip import GZipMiddleware

from agent.api.budgets import budgets_router
from agent.api.cost import cost_router
from agent.api.cost_variance import variance_router
from agent.api.doctor import doctor_router
from agent.api.doors import Doors
from agent.api.engines import engines_router
from agent.api.gate import Gate
from agent.api.ingest import ingest_router
from agent.api.leases import leases_router
from agent.api.page import page_router
from agent.api.probe_routes import probe_router
from agent.api.problems import add_problem_handlers
from agent.api.prometheus import prometheus_router
from agent.api.savings import savings_router
from agent.api.savings_sources import SavingsSources
from agent.api.schema import describe
from agent.api.scrape import scrape_router
from agent.api.security import OwnHostOnly
from agent.api.services import NodeServices
from agent.api.slots import slots_router
from agent.api.tariff import tariff_router

_WORTH_COMPRESSING_BYTES = 1400  # what one packet carries anyway
_GZIP_LEVEL = 4  # the page at level 9 takes three times as long for 3 % less


class _Api(FastAPI):
    def openapi(self) -> dict[str, Any]:
        is_new = self.openapi_schema is None
        document = super().openapi()
        if is_new:
            describe(document)
        return document


def build_api(node: NodeServices, doors: Doors) -> FastAPI:
    """The application for port 9440. It starts nothing: whoever serves it owns the tasks."""
    app = _Api(
        title="engineroom",
        version=node.version,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,  # `agent.api.access` knows the paths as they are
    )
    add_problem_handlers(app)
    app.include_router(page_router(node))
    app.include_router(probe_router(node.health))
    app.include_router(scrape_router(node))
    app.include_router(prometheus_router(node))
    app.include_router(cost_router(node, node.focus))
    app.include_router(budgets_router(node.standings))
    app.include_router(tariff_router(node.tariff))
    app.include_router(savings_router(node, node.savings or SavingsSources()))
    app.include_router(variance_router(node.variance, node.unix_ns, node.time_zone))
    app.include_router(slots_router(node))
    app.include_router(engines_router(node))
    app.include_router(doctor_router(node))
    app.include_router(ingest_router(node))
    app.include_router(leases_router(node))
    app.add_middleware(GZipMiddleware, minimum_size=_WORTH_COMPRESSING_BYTES, compresslevel=_GZIP_LEVEL)
    app.add_middleware(Gate, doors=doors)
    app.add_middleware(OwnHostOnly, names=node.hosts)
    return app
