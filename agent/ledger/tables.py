"""The tables of the ledger, as SQLAlchemy Core knows them. Their history is in `migrations`."""

from sqlalchemy import BigInteger, Boolean, Column, Index, Integer, MetaData, String, Table, Text

metadata = MetaData()

# One row: which boot the bill's clock belongs to, and the number of the last settlement step.
node_state = Table(
    "node_state",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("node", String, nullable=False),
    Column("boot_id", String, nullable=False),
    Column("anchor_unix_ns", BigInteger, nullable=False),
    Column("anchor_boot_ns", BigInteger, nullable=False),
    Column("step", BigInteger, nullable=False),
    Column("through_ns", BigInteger),
)

# A GPU under one currency. Its bill clock starts at from_ns and has been booked up to through_ns.
accounts = Table(
    "accounts",
    metadata,
    Column("gpu", String, primary_key=True),
    Column("from_ns", BigInteger, primary_key=True),
    Column("gpu_model", String, nullable=False),
    Column("currency", String),
    Column("through_ns", BigInteger, nullable=False),
    Column("is_open", Boolean, nullable=False),
)

# Price of an account from at_ns on: nano-units per nanosecond as a fraction (text: it may pass 64 bits).
price_segments = Table(
    "price_segments",
    metadata,
    Column("gpu", String, primary_key=True),
    Column("account_ns", BigInteger, primary_key=True),
    Column("at_ns", BigInteger, primary_key=True),
    Column("numerator", Text, nullable=False),
    Column("denominator", Text, nullable=False),
)

# What was booked: GPU time and money of a slot in a state. The key is most of the row, so there is no row beside it.
entries = Table(
    "entries",
    metadata,
    Column("bucket_ns", BigInteger, primary_key=True),
    Column("gpu", String, primary_key=True),
    Column("account_ns", BigInteger, primary_key=True),
    Column("slot", String, primary_key=True),  # the GPU itself, a MIG device or a share of one
    Column("state", String, primary_key=True),
    Column("reason", String, primary_key=True),
    Column("engine", String, primary_key=True),
    Column("engine_group", String, primary_key=True),  # the same on every node of an engine that runs over several
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

requests = Table(
    "requests",
    metadata,
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
    # Who the doors said was telling; '' while nobody is asked who he is. With `sidecar`: whose request this is.
    Column("sender", String, nullable=False, server_default=""),
    Index("requests_open", "settled", "started_ns"),
)

# Which event numbers of each start of each sidecar have been stored: up to accepted_through, without the holes.
sidecars = Table(
    "sidecars",
    metadata,
    Column("sidecar", String, primary_key=True),
    Column("epoch", BigInteger, primary_key=True),
    Column("sender", String, primary_key=True),
    Column("accepted_through", BigInteger, nullable=False),
    Column("holes", Text),
    Column("heard_ns", BigInteger, nullable=False),  # the last instant it told of, or of its last sign of life
)
