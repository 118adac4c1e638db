"""The table is part of the ledger, and can be of any other metadata."""

from sqlalchemy import MetaData

from agent.ledger.invoice_table import invoice_table
from agent.ledger.tables import metadata


def test_it_is_in_the_ledger_as_it_is_made() -> None:
    made = invoice_table(MetaData())
    assert metadata.tables["invoices"].c.keys() == made.c.keys()
    assert [column.name for column in made.primary_key] == ["id"]
