"""Newline-delimited JSON (Ollama's streams), cut anywhere → what it says, and the instant of its first token. Pure."""

from agent.core.requests import Usage
from agent.sidecar.meter.reading import MAX_CAPTURE_BYTES, Measured, Reading, decode


class LinesMeter:
    """One JSON object a line. A line counts at the instant its line feed has arrived."""

    __slots__ = ("_held", "_held_bytes", "_lost", "counted", "first", "reading")

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.counted = 0
        self.first: int | None = None
        self._held: list[bytes] = []  # pieces of a line that is not whole yet
        self._held_bytes = 0
        self._lost = False

    def feed(self, data: bytes, now_ns: int) -> None:
        """Take the next piece of the body, of any length."""
        if self._lost:
            return
        end = data.rfind(b"\n")
        if end >= 0:
            lines = b"".join((*self._held, data[:end])).split(b"\n")
            data = data[end + 1 :]
            self._held.clear()
            self._held_bytes = 0
            for line in lines:
                self._take_line(line, now_ns)
        if data:
            self._held.append(data)
            self._held_bytes += len(data)
        if self._held_bytes > MAX_CAPTURE_BYTES:  # no engine writes such a line; the bytes still go to the client
            self._lost = True
            self._held.clear()

    def _take_line(self, line: bytes, now_ns: int) -> None:
        said = decode(line) if line.strip() else None
        if not isinstance(said, dict):
            return
        tokens, _ = self.reading.take(said)
        self.counted += tokens
        if tokens and self.first is None:
            self.first = now_ns

    def output_tokens(self) -> int | None:
        """Tokens streamed so far."""
        reported = self.reading.reported
        return reported.output_tokens if reported and reported.output_tokens is not None else self.counted

    def finish(self, now_ns: int) -> Measured:
        """The result; a last line without its line feed is taken too."""
        self._take_line(b"".join(self._held), now_ns)
        self._held.clear()
        reading = self.reading
        return reading.measured(
            Usage() if self._lost and reading.reported is None else reading.usage(self.counted),
            first_token_at_ns=self.first,
            # `[DONE]` is no line of JSON: of an API that ends with it, the end cannot be seen here.
            complete=reading.ended or reading.done_ends,
        )
