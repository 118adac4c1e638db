"""Imported invoices and our own bill in, the difference by day and SKU out; and which GPUs have no price, and why."""

from collections.abc import Callable, Iterator

from agent.core.cost.calendar import Calendar
from agent.core.cost.prices import PriceBook
from agent.core.cost.reports import ReportQuery
from agent.core.cost.variance import Variance, our_days, variance
from agent.core.gpu_readings import GpuSnapshot
from agent.core.workloads import Feature
from agent.ledger.ledger import Ledger


class Invoices:
    """`through_ns` says up to when the ledger is settled."""

    def __init__(
        self, ledger: Ledger, prices: PriceBook | None, calendar: Calendar, through_ns: Callable[[], int | None]
    ) -> None:
        self._ledger = ledger
        self._prices = prices
        self._calendar = calendar
        self._through_ns = through_ns

    async def variance(self, start_ns: int, end_ns: int) -> Variance:
        """The local days of [start, end), which are whole. Raises `TryLater` as the ledger does."""
        edges = self._calendar.edges(start_ns, end_ns, "day")
        query = ReportQuery(start_ns=start_ns, end_ns=end_ns, aggregate=("gpu_model", "gpu"), edges=edges)
        ours = our_days(
            await self._ledger.report(query),
            self._calendar,
            self._sku_of,
            since_ns=await self._ledger.begins_ns(),
            through_ns=self._through_ns(),
        )
        first, last = self._calendar.local_date(start_ns), self._calendar.local_date(end_ns - 1)
        return variance(ours, await self._ledger.invoiced(first.isoformat(), last.isoformat()))

    def unpriced(self, gpus: GpuSnapshot | None, now_ns: int) -> Iterator[Feature]:
        """A finding for each GPU model that has no price though there is a price book."""
        if self._prices is None or gpus is None:
            return
        told = set()
        for gpu in gpus.gpus:
            why = self._prices.why_unpriced(gpu.model, now_ns, gpu.uuid)
            if why is not None and why not in told:
                told.add(why)
                yield Feature(name=f"prices of {gpu.model}", enabled=False, reason=why)

    def _sku_of(self, gpu_model: str, at_ns: int, gpu: str) -> str:
        return gpu_model if self._prices is None else self._prices.sku_of(gpu_model, at_ns, gpu)
