"""A database's error in, what a user is told and whether waiting helps out."""

from sqlalchemy.exc import DatabaseError, DBAPIError, InterfaceError, InternalError, OperationalError

from agent.core.ports import TryLater
from agent.ledger.postgresql import OtherWriter

# All else is a mistake of ours: a wrong statement, a constraint. `DatabaseError` itself is a damaged file.
_PASSING = (OperationalError, InternalError, InterfaceError)


def try_later(where: str, error: DBAPIError | OtherWriter, *, writing: bool) -> TryLater | None:
    """What to raise for a database that cannot answer now; None for an error that is our own mistake."""
    if isinstance(error, OtherWriter):
        return TryLater(f"the ledger {where} cannot be written ({error}); nothing is lost")
    if type(error) is DatabaseError:
        what = "written" if writing else "read"
        return TryLater(
            f"the ledger {where} cannot be {what} ({error.orig}): it is damaged. Stop the agent and run "
            "`engineroom ledger repair`, which keeps what can be read; until then sidecars keep what they have to tell"
        )
    if not isinstance(error, _PASSING):
        return None
    if not writing:
        return TryLater(f"the ledger {where} cannot be read now ({error.orig})")
    return TryLater(
        f"the ledger {where} cannot be written ({error.orig}); nothing is lost: {_advice(str(error.orig))}, "
        "and it goes on by itself"
    )


def _advice(said: str) -> str:
    if "locked" in said or "lock timeout" in said:
        return "another process writes to it; end that"
    if "readonly" in said or "read-only" in said:
        return "fix its rights, or whatever made its disk read-only"
    return "make room on its disk or fix its rights"
