"""History of the ledger's tables (Alembic); run by `agent.ledger.schema` when the agent starts."""
