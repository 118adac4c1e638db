"""The tables of the ledger, as SQLAlchemy Core knows them. Their history is in `migrations`."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.types import TypeDecorator

from agent.ledger.ids import from_key, to_key
from agent.ledger.invoice_table import invoice_table

MINUTE, HOUR, DAY = 0, 1, 2  # grains of `entries`

metadata = MetaData()


class RequestId(TypeDecorator[str]):
    """Request ids: text for us, 16 bytes on disk where they are UUIDv7."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: object) -> bytes | None:
        """To the disk."""
        return None if value is None else to_key(value)

    def process_result_value(self, value: bytes | None, dialect: object) -> str | None:
        """From the disk."""
        return None if value is None else from_key(value)


# One row: which boot the bill's clock belongs to, the number of the last settlement step, and what is rolled and kept.
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
    # Unix minutes. Before `rolled_minute` every grain holds everything that is kept, from it on minutes only.
    Column("rolled_minute", Integer),
    Column("minutes_from", Integer, nullable=False, server_default="0"),  # before it, minutes were forgotten
    Column("hours_from", Integer, nullable=False, server_default="0"),
    # Ends of requests that were told, ever: rows of requests are forgotten, this is not.
    Column("ended", BigInteger, nullable=False, server_default="0"),
)

# Which time zone hours and days are of, from a minute on. The bucket that a change cuts ends, and another begins there.
calendars = Table(
    "calendars",
    metadata,
    Column("from_minute", Integer, primary_key=True, autoincrement=False),
    Column("time_zone", String, nullable=False),
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
    Column("energy_uj", BigInteger, nullable=False, server_default="0"),  # by the meter, of the time that is booked
)

# What the energy meter of each GPU showed where its bill is booked up to, so that a restart goes on from there.
meters = Table(
    "meters",
    metadata,
    Column("gpu", String, primary_key=True),
    Column("at_ns", BigInteger, nullable=False),
    Column("total_uj", BigInteger, nullable=False),
    Column("source", String, nullable=False),
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

# Under what is booked: every combination once.
places = Table(
    "places",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("gpu", String, nullable=False),
    Column("account_ns", BigInteger, nullable=False),
    Column("slot", String, nullable=False),  # the GPU itself, a MIG device or a share of one
    Column("state", String, nullable=False),
    Column("reason", String, nullable=False),
    Column("engine", String, nullable=False),
    Column("engine_group", String, nullable=False),  # the same on every node of an engine that runs over several
    Column("model", String, nullable=False),
    Column("tenant", String, nullable=False),
    Column("outcome", String, nullable=False),
    Column("namespace", String, nullable=False),
    Column("pod", String, nullable=False),
    UniqueConstraint(
        "gpu", "account_ns", "slot", "state", "reason", "engine", "engine_group", "model", "tenant", "outcome",
        "namespace", "pod",
        name="places_key",
    ),
)  # fmt: skip

# What was booked in a minute, and the same again in hours and days. The key is the table: there is no row beside it.
entries = Table(
    "entries",
    metadata,
    Column("grain", SmallInteger, primary_key=True, autoincrement=False),
    Column("minute", Integer, primary_key=True, autoincrement=False),  # in which the bucket begins, since 1970
    Column("place", Integer, primary_key=True, autoincrement=False),
    Column("gpu_ns", BigInteger, nullable=False),
    Column("nano", BigInteger, nullable=False),
    Column("requests", BigInteger, nullable=False),
    Column("input_tokens", BigInteger, nullable=False),  # with the cached ones
    Column("input_cached_tokens", BigInteger, nullable=False),
    Column("output_tokens", BigInteger, nullable=False),
    Column("work_ns", BigInteger, nullable=False),
    Column("energy_uj", BigInteger, nullable=False),
    Column("metered_ns", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# Requests whose cost is not final. When it is, they move to `settled_requests`.
requests = Table(
    "requests",
    metadata,
    Column("id", RequestId, primary_key=True),
    Column("sidecar", String, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    # Who the doors said was telling; '' while nobody is asked who he is. With `sidecar`: whose request this is.
    Column("sender", String, nullable=False),
    Column("upstream", String, nullable=False),
    Column("engine", String, nullable=False),
    Column("model", String),
    Column("tenant", String),
    Column("started_ns", BigInteger, nullable=False),
    Column("first_token_ns", BigInteger),
    Column("ended_ns", BigInteger),
    Column("outcome", String),
    Column("input_tokens", BigInteger),  # without the cached ones
    Column("input_cached_tokens", BigInteger),
    Column("output_tokens", BigInteger),
    Column("seen_by", String, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("max_output_tokens", BigInteger),
    Column("input_estimate", BigInteger),
    Column("progress_ns", BigInteger),
    Column("progress_tokens", BigInteger),
    Column("gpu_ns", BigInteger, nullable=False),
    Column("nano", BigInteger, nullable=False),
    Column("work_ns", BigInteger, nullable=False),
    Column("energy_uj", BigInteger, nullable=False),
    Column("metered_ns", BigInteger, nullable=False),
    Column("seen_ns", BigInteger, nullable=False),
    Column("currency", String),
    Column("unpriced", Boolean, nullable=False),
    sqlite_with_rowid=False,
)

# Requests whose cost is final, in as few bytes as possible; `settled.py` reads and writes `figures`.
settled_requests = Table(
    "settled_requests",
    metadata,
    Column("id", RequestId, primary_key=True),
    Column("place", Integer, nullable=False),  # where its last GPU time was booked
    Column("gpu_ns", BigInteger, nullable=False),
    Column("nano", BigInteger, nullable=False),
    Column("figures", LargeBinary, nullable=False),
    sqlite_with_rowid=False,
)

# Whose a settled request is.
tellers = Table(
    "tellers",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("sidecar", String, nullable=False),
    Column("sender", String, nullable=False),
    UniqueConstraint("sidecar", "sender", name="tellers_key"),
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

invoices = invoice_table(metadata)
