"""How far back and forth the ledger holds which grain."""

from sqlalchemy import Connection, func, select

from agent.ledger.rollup import read_eras
from agent.ledger.tables import DAY, HOUR, MINUTE, entries, node_state
from agent.ledger.windows import Kept


def read_kept(connection: Connection) -> Kept:
    """What there is to read. An empty ledger holds nothing at 0."""
    n = node_state.c
    state = connection.execute(select(n.rolled_minute, n.minutes_from, n.hours_from)).one()
    firsts, last = [], 0
    for grain in (MINUTE, HOUR, DAY):
        of_grain = entries.c.grain == grain  # one seek at each end of the key
        first = connection.execute(select(func.min(entries.c.minute)).where(of_grain)).scalar()
        if first is not None:
            firsts.append(int(first))
            last = max(last, int(connection.execute(select(func.max(entries.c.minute)).where(of_grain)).scalar_one()))
    rolled = int(state.rolled_minute or 0)
    begin = min(firsts, default=0)
    end = max(last + 1, rolled) if firsts else begin
    return Kept(begin, end, rolled, int(state.minutes_from), int(state.hours_from), read_eras(connection))
