"""Made-up Server: metrics page in, one reading for each model out. It shows what an engine file needs, and no more."""

from agent.core.metrics.scrape import Scrape
from agent.core.readings import EngineReading
from agent.engines.arguments import number
from agent.engines.contract import EngineFile, HealthPaths, Origin, Page, Process, Recognised
from agent.engines.signals import SignalMap, Source, read_signals

SIGNALS = SignalMap(
    kind="madeup",
    model_label="net",
    values={"requests_running": (Source("madeup_busy", "gauge"),)},
    tokens={"output": (Source("madeup_written_total", "counter"),)},
    histograms={"queue_seconds": (Source("madeup_wait_milliseconds", "histogram", scale=0.001),)},
)


def matches(scrape: Scrape, _path: str) -> bool:
    """A page with any series of it."""
    return any(name.startswith("madeup_") for name in scrape.names())


def read(page: Page, origin: Origin) -> list[EngineReading]:
    """One reading for each `net` of the page."""
    return read_signals(SIGNALS, page.scrape, origin) if page.scrape else []


def recognise(process: Process) -> Recognised | None:
    """``madeup-server``."""
    known = bool(process.argv) and process.argv[0].endswith("/madeup-server")
    return Recognised(port=number(process.argv, "--listen")) if known else None


ENGINE = EngineFile(
    kind="madeup",
    title="Made-up Server",
    read=read,
    recognise=recognise,
    default_ports=(7777,),
    matches=matches,
    health=HealthPaths(live="/alive", ready="/alive"),
    metrics_hint="Made-up Server shows its metrics with --numbers",
    absent={
        "requests_waiting": "Made-up Server tells it with --crowd",
        "requests_running": "Made-up Server tells it with --numbers",
    },
)
