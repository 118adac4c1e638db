"""What the one writer of a ledger remembers of it between transactions."""

from agent.ledger.open_requests import OpenRequests
from agent.ledger.places import Places


class Memory:
    """Places and open requests, as they are on disk after the last transaction."""

    def __init__(self) -> None:
        self.places = Places()
        self.requests = OpenRequests()

    def keep(self) -> None:
        """The transaction is on disk."""
        self.places.keep()

    def drop(self) -> None:
        """The transaction was taken back: nothing is remembered, all is read again."""
        self.places.drop()
        self.requests.drop()
