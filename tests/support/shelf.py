"""A destination with a memory, and the oracle that every fault test ends with: what should be there, once, unharmed."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from email.utils import formatdate
from typing import NamedTuple

import aiohttp

from agent.clock import NS, boot_ns, unix_ns
from agent.core.http_outcome import http_date_ns, outcome, retry_after_seconds
from agent.core.ports import Paused, Rejected, TryLater, Verdict
from exporters.post import post
from tests.support.hostile import Act, answered_by


class Line(NamedTuple):
    """An item: a number and a payload computed from it."""

    number: int
    payload: str


def payload(number: int, size: int = 0) -> str:
    return hashlib.sha256(str(number).encode()).hexdigest() + "." * size


def encoded(number: int, size: int = 0) -> bytes:
    return f"{number} {payload(number, size)}".encode()


def decoded(item: bytes) -> Line:
    number, _, text = item.decode().partition(" ")
    return Line(int(number), text)


class Shelf:
    """Stores lines by number, as Elasticsearch stores documents by id: a second copy is a 409, never a second line.

    `judge` says the status of a line that is not stored yet, `whole` that of a whole request (by its bytes).
    """

    def __init__(
        self,
        judge: Callable[[Line], int] = lambda line: 201,
        whole: Callable[[bytes], int] = lambda body: 200,
    ) -> None:
        self.judge = judge
        self.whole = whole
        self.stored: dict[int, str] = {}
        self.order: list[int] = []
        self.sent = Counter[int]()  # how often each line came in
        self.kept_apart: set[int] = set()
        self.requests: list[tuple[int, int]] = []  # boot_ns, lines

    def take(self, body: bytes) -> tuple[int, bytes]:
        """A status and one status for each line."""
        lines = [
            Line(int(number), text) for number, _, text in (row.partition(" ") for row in body.decode().split("\n"))
        ]
        self.requests.append((boot_ns(), len(lines)))
        status = self.whole(body)
        if status != 200:
            return status, b'"as told"'
        return 200, json.dumps([self._one(line) for line in lines]).encode()

    def _one(self, line: Line) -> int:
        self.sent[line.number] += 1
        if line.number in self.stored:
            return 409
        status = self.judge(line)
        if status in (201, 202):
            self.stored[line.number] = line.payload
            self.order.append(line.number)
            if status == 202:
                self.kept_apart.add(line.number)
        return status

    @property
    def good(self) -> Act:
        return answered_by(self.take)

    def judged(self, numbers: Sequence[int], dead: Sequence[int] = ()) -> "Judgement":
        """The oracle: `numbers` were accepted, `dead` are in the dead letters."""
        expected = set(numbers) - set(dead)
        return Judgement(
            missing=len(expected - self.stored.keys()),
            corrupted=sum(text != payload(number) for number, text in self.stored.items()),
            spurious=len(self.stored.keys() - expected),
            copies_sent=sum(self.sent[number] - 1 for number in self.stored),
        )


class Judgement(NamedTuple):
    missing: int
    corrupted: int
    spurious: int
    copies_sent: int  # offered again after they were stored or not: 0 where the fault forbids it


class LinesExporter:
    """Lines to a `Shelf` over HTTP; a status for each line comes back."""

    def __init__(self, url: str, session: aiohttp.ClientSession, timeout_seconds: float = 5.0, key: str = "") -> None:
        self.name = "shelf"
        self.key = key
        self._url = url
        self._session = session
        self._timeout_seconds = timeout_seconds

    async def send(self, batch: Sequence[Line]) -> list[Verdict]:
        body = "\n".join(f"{line.number} {line.payload}" for line in batch).encode()
        headers = {"Authorization": f"Bearer {self.key}"}
        answer = await post(self._session, self._url, body, headers, self._timeout_seconds)
        now_ns = http_date_ns(answer.headers.get("Date")) or unix_ns()
        after = retry_after_seconds(answer.headers.get("Retry-After"), now_ns)
        if error := outcome(answer.status, answer.text, after):
            raise error
        try:
            return [_verdict(status) for status in json.loads(answer.text)]
        except (ValueError, TypeError, KeyError) as error:
            raise TryLater(f"the answer cannot be read: {type(error).__name__}") from None


def _verdict(status: int) -> Verdict:
    known: dict[int, Verdict] = {
        201: "delivered",
        202: "refused_kept",
        409: "duplicate",
        400: Rejected("line 400"),
        403: Paused("line 403: read-only"),
        429: TryLater("line 429"),
    }
    return known[status]


def in_seconds(seconds: int) -> str:
    """An HTTP date so many seconds from now."""
    return formatdate(unix_ns() / NS + seconds, usegmt=True)
