"""Statements for many rows and many keys do what they say, on both databases."""

import pytest
from sqlalchemy import LargeBinary, bindparam, delete, select, type_coerce

from agent.ledger.dialects import Lookup, Many, greatest, insert
from agent.ledger.ledger import Ledger
from agent.ledger.tables import settled_requests
from tests.support.ledger import rows

NAMES = ["figures", "id", "place", "gpu_ns", "nano"]  # another order than the table's
key = type_coerce(settled_requests.c.id, LargeBinary)
add = Many(NAMES, lambda name: insert(name, settled_requests).values({name: bindparam(name) for name in NAMES}))
find = Lookup(lambda keys: select(key, settled_requests.c.nano).where(key.in_(keys)))
forget = Lookup(lambda keys: delete(settled_requests).where(key.in_(keys)))


@pytest.mark.parametrize("count", [0, 1, 2, 17, 513, 1100])
async def test_many_rows_are_written_found_and_taken_away(ledger: Ledger, count: int) -> None:
    keys = [b"\xff" + f"{number:05}".encode() for number in range(count)]
    with ledger._writer.begin() as connection:
        add.run(connection, [(b"x", each, 7, 0, number) for number, each in enumerate(keys)])
        found = {row[0]: row[1] for row in find.rows(connection, [*keys, b"\xffnobody"])}
        assert found == {each: number for number, each in enumerate(keys)}
        forget.run(connection, keys[1:])
    assert [row["place"] for row in rows(ledger, settled_requests)] == [7] * min(count, 1)


async def test_the_greatest_of_two(ledger: Ledger) -> None:
    with ledger._reader.begin() as connection:
        both = greatest(connection.dialect.name, bindparam("a", 3), bindparam("b", 5))
        assert connection.execute(select(both)).scalar() == 5
