"""Of which group an engine was that runs over several nodes."""

import sqlalchemy
from alembic import op
from sqlalchemy import BigInteger, Column, String

revision = "0004"
down_revision = "0003"

_KEPT = (
    "bucket_ns, gpu, account_ns, slot, state, reason, engine, model, tenant, outcome,"
    " gpu_ns, nano, requests, input_tokens, output_tokens"
)


def upgrade() -> None:
    """From 0003. Before there were groups every engine was on one node: the group ''."""
    op.rename_table("entries", "entries_0003")
    op.create_table(
        "entries",
        Column("bucket_ns", BigInteger, primary_key=True),
        Column("gpu", String, primary_key=True),
        Column("account_ns", BigInteger, primary_key=True),
        Column("slot", String, primary_key=True),
        Column("state", String, primary_key=True),
        Column("reason", String, primary_key=True),
        Column("engine", String, primary_key=True),
        Column("engine_group", String, primary_key=True),
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
    op.execute(sqlalchemy.text(f"INSERT INTO entries ({_KEPT}, engine_group) SELECT {_KEPT}, '' FROM entries_0003"))
    op.drop_table("entries_0003")
