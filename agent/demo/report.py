"""What the demo saw, asked from the agent's own API: the JSON of design section 6 and the verdict."""

from dataclasses import asdict, dataclass
from typing import Any

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from agent.demo.traffic import Tally


@dataclass(frozen=True, slots=True)
class Outcome:
    """Contract of `--json`."""

    gpus: list[dict[str, Any]]
    engines: list[dict[str, Any]]
    requests: dict[str, int]
    alerts: dict[str, Any]
    cost: dict[str, Any]
    delivery: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    def complaints(self, expected_alert: str | None, tally: Tally) -> list[str]:
        """Every station that did not do its job, in words; empty when all is well."""
        found = []
        if not self.gpus or not all(gpu["samples"] for gpu in self.gpus):
            found.append("no GPU was read")
        if not any(engine["up"] for engine in self.engines):
            found.append("no engine was up")
        counts = self.requests
        if not counts["sent"] or not counts["sent"] == counts["recorded"] == counts["settled"]:
            found.append(f"requests sent, recorded and settled differ: {counts}")
        if not self.cost["reconciles"]:
            found.append("the bill does not reconcile")
        if not self.cost["parts_nano"].get("unattributed"):
            found.append("the traffic past the sidecar was not seen")
        if not self.alerts["rules"] or not self.alerts["evaluations"]:
            found.append("no rule was evaluated")
        if self.delivery["lost"]:
            found.append(f"{self.delivery['lost']} request events were lost")
        firing = set(self.alerts["firing"])
        if expected_alert and expected_alert not in firing:
            found.append(f"{expected_alert} did not fire")
        if expected_alert is None and firing:
            found.append(f"alerts fired without a fault: {sorted(firing)}")
        if expected_alert is None and tally.failed:
            found.append(f"{tally.failed} requests failed: {tally.reasons}")
        return found


class _Asker:
    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session = session
        self._url = url

    async def get(self, path: str, **parameters: str) -> Any:
        async with self._session.get(self._url + path, params=parameters) as answer:
            answer.raise_for_status()
            return await answer.json()

    async def query(self, promql: str) -> list[tuple[dict[str, str], float]]:
        data = (await self.get("/api/v1/query", query=promql))["data"]
        return [(entry["metric"], float(entry["value"][1])) for entry in data["result"]]


async def gather(agent_url: str, sidecar_admin_port: int, tally: Tally, fired: set[str]) -> Outcome:
    """Ask the agent and the sidecar; raises `aiohttp.ClientError` when the agent does not answer."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as session:
        ask = _Asker(session, agent_url)
        reconciliation = await ask.get("/api/v1/cost/reconcile")
        report = await ask.get("/api/v1/cost/report", window="24h", aggregate="state")
        parts = reconciliation["parts_nano"]
        settled = sum(row["requests"] for row in report["rows"] if row["group"].get("state") == "request")
        recorded = await ask.query('sum(engineroom_records_accepted_total{kind="end"})')
        rules = (await ask.get("/api/v1/rules"))["data"]["groups"]
        runs = await ask.query('sum(engineroom_cycle_runs_total{cycle="rules",result="ok"})')
        return Outcome(
            gpus=await _gpus(ask),
            engines=await _engines(ask),
            requests={"sent": tally.sent, "recorded": int(recorded[0][1]) if recorded else 0, "settled": settled},
            alerts={
                "rules": sum(len(group["rules"]) for group in rules),
                "evaluations": int(runs[0][1]) if runs else 0,
                "firing": sorted(fired),
            },
            cost={
                "currency": reconciliation["currency"],
                "bill_nano": reconciliation["bill_nano"],
                "parts_nano": parts,
                "reconciles": reconciliation["reconciles"],
            },
            delivery={"logs": {}, "spans": {}, **await _delivery(session, sidecar_admin_port)},
        )


async def _gpus(ask: _Asker) -> list[dict[str, Any]]:
    counts = await ask.query("count_over_time(engineroom_gpu_up[30m])")
    return [
        {
            "uuid": labels["uuid"],
            "model": labels["gpu_model"],
            "simulated": labels.get("simulated") == "true",
            "samples": int(count),
        }
        for labels, count in counts
    ]


async def _engines(ask: _Asker) -> list[dict[str, Any]]:
    p99 = "histogram_quantile(0.99, sum by (engine, le) (rate(engineroom_llm_time_to_first_token_seconds_bucket[30m])))"
    ttft = {labels["engine"]: value for labels, value in await ask.query(p99)}
    requests = await ask.query("sum by (engine, model) (engineroom_llm_requests_total)")
    totals = {labels["engine"]: (labels.get("model"), int(value)) for labels, value in requests}
    return [
        {
            "kind": labels.get("kind"),
            "model": totals.get(labels["engine"], (None, 0))[0],
            "up": up == 1,
            "requests": totals.get(labels["engine"], (None, 0))[1],
            "ttft_p99_seconds": ttft.get(labels["engine"]),
        }
        for labels, up in await ask.query("engineroom_llm_up")
    ]


async def _delivery(session: aiohttp.ClientSession, admin_port: int) -> dict[str, Any]:
    """The records' way from the sidecar: what was accepted, what became of it, and what was lost."""
    async with session.get(f"http://127.0.0.1:{admin_port}/metrics") as answer:
        text = await answer.text()
    records: dict[str, int] = {}
    lost = 0
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name == "engineroom_sidecar_events_dropped_total":
                lost += int(sample.value)
            if sample.labels.get("stream") != "records":
                continue
            if sample.name == "engineroom_delivery_accepted_items_total":
                records["accepted"] = int(sample.value)
            elif sample.name == "engineroom_delivery_waiting_items":
                records["waiting"] = int(sample.value)
            elif sample.name == "engineroom_delivery_items_total":
                records[sample.labels["result"]] = int(sample.value)
    good = ("accepted", "waiting", "delivered", "duplicate", "dead")
    return {"records": records, "lost": lost + sum(n for result, n in records.items() if result not in good)}
