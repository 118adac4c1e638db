"""Every request that a ledger's file knows, whether its cost is final or not, by plain SQL; for oracles."""

import sqlite3
from pathlib import Path
from typing import NamedTuple

from agent.ledger.ids import from_key
from agent.ledger.settled import unpack


class Told(NamedTuple):
    """What the ledger says of a request. `outcome` None: its end is not known."""

    id: str
    tenant: str
    outcome: str | None
    input_tokens: int | None
    output_tokens: int | None


def told_requests(ledger: Path) -> list[Told]:
    """Open and settled ones; each id at most once, or the ledger is wrong."""
    with sqlite3.connect(f"file:{ledger}?mode=ro", uri=True) as connection:
        found = [
            Told(from_key(key), tenant or "", *rest)
            for key, tenant, *rest in connection.execute(
                "SELECT id, tenant, outcome, input_tokens, output_tokens FROM requests"
            )
        ]
        settled = connection.execute(
            "SELECT s.id, p.tenant, p.outcome, s.gpu_ns, s.figures"
            " FROM settled_requests AS s JOIN places AS p ON p.id = s.place"
        )
        for key, tenant, outcome, gpu_ns, figures in settled:
            told = unpack(key, gpu_ns, figures)
            found.append(Told(from_key(key), tenant, outcome, told.input_tokens, told.output_tokens))
    assert len({one.id for one in found}) == len(found)
    return found
