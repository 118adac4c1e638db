"""Which slot of a GPU the time was of (the GPU itself, a MIG device, a share), and why it counts as its state."""

import sqlalchemy
from alembic import op
from sqlalchemy import BigInteger, Column, String

revision = "0003"
down_revision = "0002"

_KEPT = (
    "bucket_ns, gpu, account_ns, state, engine, model, tenant, outcome,"
    " gpu_ns, nano, requests, input_tokens, output_tokens"
)


def upgrade() -> None:
    """From 0002. Before there were slots a GPU was one, and nobody wrote down reasons.

    Rows get shorter for all that: the key is the table now, not a copy of most of it beside it.
    """
    op.rename_table("entries", "entries_0002")
    op.create_table(
        "entries",
        Column("bucket_ns", BigInteger, primary_key=True),
        Column("gpu", String, primary_key=True),
        Column("account_ns", BigInteger, primary_key=True),
        Column("slot", String, primary_key=True),
        Column("state", String, primary_key=True),
        Column("reason", String, primary_key=True),
        Column("engine", String, primary_key=True),
        Column("model", String, primary_key=True),
        Column("tenant", String, primary_key=True),
        Column("outcome", String, primary_key=True),
        Column("gpu_ns", BigInteger, nullable=False),
        Column("nano", BigInteger, nullable=False),
        Column("requests", BigInteger, nullable=False),
        Column("input_tokens", BigInteger, nullable=False),
        Column("output_tokens", BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
    op.execute(
        sqlalchemy.text(f"INSERT INTO entries ({_KEPT}, slot, reason) SELECT {_KEPT}, gpu, '' FROM entries_0002")
    )
    op.drop_table("entries_0002")
