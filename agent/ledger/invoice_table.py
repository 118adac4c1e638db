"""The table of imported invoices, for the ledger's metadata: rows are added, never changed or taken away."""

from sqlalchemy import BigInteger, Column, Index, Integer, MetaData, String, Table, Text


def invoice_table(metadata: MetaData) -> Table:
    """Table `invoices`, made part of `metadata`: what others billed, one row for each local day and SKU.

    A line over a longer period is in each day of it, by time, and those parts are the line to the nano-unit.
    """
    return Table(
        "invoices",
        metadata,
        # Hash of source, day, SKU and currency: importing the same file again finds its rows there.
        Column("id", String, primary_key=True),
        Column("source", String, nullable=False),  # whose lines these are: invoice number or file name
        Column(
            "line", Integer, nullable=False
        ),  # the first of the file that it is made of, from 1 (the header); for people
        Column("day", String, nullable=False),  # local date, 2026-01-31
        Column("time_zone", String, nullable=False),  # whose days: IANA name
        Column("sku", String, nullable=False),
        Column("currency", String, nullable=False),
        Column("nano", BigInteger, nullable=False),  # negative: a credit, or a correction downwards
        Column("quantity", Text),  # exact, as a fraction or decimal; NULL: not told
        Column("unit", String),
        Column("kind", String, nullable=False, server_default=""),  # '' or `correction`
        Column("imported_ns", BigInteger, nullable=False),
        Index("invoices_day", "day", "sku"),
        Index("invoices_source", "source"),
    )
