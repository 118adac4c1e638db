"""The first tables."""

from alembic import op
from sqlalchemy import BigInteger, Boolean, Column, Integer, String, Text, UniqueConstraint

revision = "0001"
down_revision = None


def upgrade() -> None:
    """From nothing to version 0001."""
    op.create_table(
        "node_state",
        Column("id", Integer, primary_key=True),
        Column("node", String, nullable=False),
        Column("boot_id", String, nullable=False),
        Column("anchor_unix_ns", BigInteger, nullable=False),
        Column("anchor_boot_ns", BigInteger, nullable=False),
        Column("step", BigInteger, nullable=False),
        Column("through_ns", BigInteger),
    )
    op.create_table(
        "accounts",
        Column("gpu", String, primary_key=True),
        Column("from_ns", BigInteger, primary_key=True),
        Column("gpu_model", String, nullable=False),
        Column("currency", String),
        Column("through_ns", BigInteger, nullable=False),
        Column("is_open", Boolean, nullable=False),
    )
    op.create_table(
        "price_segments",
        Column("gpu", String, primary_key=True),
        Column("account_ns", BigInteger, primary_key=True),
        Column("at_ns", BigInteger, primary_key=True),
        Column("numerator", Text, nullable=False),
        Column("denominator", Text, nullable=False),
    )
    op.create_table(
        "entries",
        Column("id", Integer, primary_key=True),
        Column("bucket_ns", BigInteger, nullable=False),
        Column("gpu", String, nullable=False),
        Column("account_ns", BigInteger, nullable=False),
        Column("state", String, nullable=False),
        Column("engine", String, nullable=False),
        Column("model", String, nullable=False),
        Column("tenant", String, nullable=False),
        Column("outcome", String, nullable=False),
        Column("gpu_ns", BigInteger, nullable=False),
        Column("nano", BigInteger, nullable=False),
        Column("requests", BigInteger, nullable=False),
        Column("input_tokens", BigInteger, nullable=False),
        Column("output_tokens", BigInteger, nullable=False),
        UniqueConstraint("bucket_ns", "gpu", "account_ns", "state", "engine", "model", "tenant", "outcome"),
    )
    op.create_table(
        "requests",
        Column("id", String, primary_key=True),
        Column("sidecar", String, nullable=False),
        Column("epoch", BigInteger, nullable=False),
        Column("upstream", String, nullable=False),
        Column("engine", String, nullable=False),
        Column("model", String),
        Column("tenant", String),
        Column("started_ns", BigInteger, nullable=False),
        Column("first_token_ns", BigInteger),
        Column("ended_ns", BigInteger),
        Column("outcome", String),
        Column("input_tokens", BigInteger),
        Column("input_cached_tokens", BigInteger),
        Column("output_tokens", BigInteger),
        Column("progress_ns", BigInteger),
        Column("progress_tokens", BigInteger),
        Column("gpu_ns", BigInteger, nullable=False),
        Column("nano", BigInteger, nullable=False),
        Column("seen_ns", BigInteger, nullable=False),
        Column("currency", String),
        Column("unpriced", Boolean, nullable=False),
        Column("settled", Boolean, nullable=False),
    )
    op.create_table(
        "sidecars",
        Column("sidecar", String, primary_key=True),
        Column("epoch", BigInteger, primary_key=True),
        Column("accepted_through", BigInteger, nullable=False),
        Column("heard_ns", BigInteger, nullable=False),
    )
    op.create_index("requests_open", "requests", ["settled", "started_ns"])
