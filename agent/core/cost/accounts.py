"""Accounts: one GPU under one currency, with the prices that its bill clock runs on. A price book in, accounts out."""

from dataclasses import dataclass

from agent.core.cost.prices import BillLine, PriceBook


@dataclass(slots=True)
class Account:
    """One GPU under one currency (None: no price) from `from_ns` on; its bill clock starts there."""

    gpu: str
    gpu_model: str
    from_ns: int
    currency: str | None
    line: BillLine | None

    def nano(self, start_ns: int, end_ns: int) -> int:
        """Price of [start, end) by the bill clock; 0 where there is no price (`currency` says so)."""
        return self.line.nano(end_ns) - self.line.nano(start_ns) if self.line else 0


def open_account(book: PriceBook | None, gpu: str, gpu_model: str, from_ns: int) -> Account:
    """The account of a GPU from `from_ns` on, priced when the book has a price for it then."""
    segments = book.segments(gpu_model, from_ns, gpu=gpu) if book else []
    if not segments or book is None:
        return Account(gpu, gpu_model, from_ns, None, None)
    return Account(gpu, gpu_model, from_ns, book.currency, BillLine(segments))


def reprice(account: Account, book: PriceBook | None, at_ns: int) -> Account:
    """The account that goes on at `at_ns`: the same one where the book says the same, else with the book's prices.

    What is closed keeps its price. Another currency, or a first or last price, begins a new account.
    """
    segments = book.segments(account.gpu_model, at_ns, gpu=account.gpu) if book else []
    currency = book.currency if book and segments else None
    if currency != account.currency:
        return open_account(book, account.gpu, account.gpu_model, at_ns)
    if account.line is None:
        return account
    kept = [segment for segment in account.line.segments if segment[0] < at_ns]
    if kept and kept[-1][1] == segments[0][1]:
        segments = segments[1:]
    renewed = BillLine([*kept, *segments])
    if renewed.segments == account.line.segments:
        return account
    return Account(account.gpu, account.gpu_model, account.from_ns, currency, renewed)
