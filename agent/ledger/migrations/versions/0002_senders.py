"""Who told a request, by whom it was let in; and which event numbers never came."""

import sqlalchemy
from alembic import op
from sqlalchemy import BigInteger, Column, String, Text

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """From 0001. What was told before there were senders belongs to nobody in particular: the sender ''."""
    op.add_column("requests", Column("sender", String, nullable=False, server_default=""))
    op.rename_table("sidecars", "sidecars_0001")
    op.create_table(
        "sidecars",
        Column("sidecar", String, primary_key=True),
        Column("epoch", BigInteger, primary_key=True),
        Column("sender", String, primary_key=True),
        Column("accepted_through", BigInteger, nullable=False),
        Column("holes", Text),
        Column("heard_ns", BigInteger, nullable=False),
    )
    op.execute(
        sqlalchemy.text(
            "INSERT INTO sidecars (sidecar, epoch, sender, accepted_through, heard_ns)"
            " SELECT sidecar, epoch, '', accepted_through, heard_ns FROM sidecars_0001"
        )
    )
    op.drop_table("sidecars_0001")
