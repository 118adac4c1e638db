"""Messages of a call → model, tokens, first token, errors told inside a stream; each API has a reading. Pure.

Triton: `inference.GRPCInferenceService` (KServe v2 with Triton's ModelStreamInfer); its answers hold no token counts,
so that answers of a decoupled model are counted: one is about one token. DeepSpeed-MII: `modelresponse.ModelResponse`,
whose answers tell how many tokens there are so far.
"""

from agent.core.requests import Usage
from agent.sidecar.grpc.messages import Message
from agent.sidecar.grpc.protobuf import Field, fields, text

HEAD_BYTES = 64 * 1024  # of each message that are kept to be read
BYTES_PER_TOKEN = 4
MAX_TENSORS = 64
MAX_SIGNED = (1 << 63) - 1  # what is above it is a negative int64
_TRITON = "/inference.GRPCInferenceService/"
_MII = "/modelresponse.ModelResponse/"
_UNRECORDED = ("/grpc.health.", "/grpc.reflection.", "/grpc.channelz.")
_FINAL = b"\x0a\x15triton_final_response"
_LIMITS = frozenset(("max_tokens", "request_output_len", "max_new_tokens", "max_output_tokens"))


def is_recorded(path: str) -> bool:
    """Whether a call is work for the engine: probes, listings and settings are forwarded only."""
    if path.startswith(_TRITON):
        return path[len(_TRITON) :] in ("ModelInfer", "ModelStreamInfer")
    if path.startswith(_MII):
        return path[len(_MII) :] != "Terminate"
    return not path.startswith(_UNRECORDED)


class Reading:
    """What is known of a call whose messages nobody here can read: nothing but whether it streams."""

    __slots__ = (
        "answered",
        "error",
        "finish_reason",
        "first_token_at_ns",
        "input_tokens",
        "max_output_tokens",
        "model",
        "streamed",
    )

    def __init__(self, *, streamed: bool = False) -> None:
        self.streamed = streamed
        self.model: str | None = None
        self.input_tokens = 0  # an estimate
        self.max_output_tokens: int | None = None
        self.first_token_at_ns: int | None = None
        self.finish_reason: str | None = None
        self.error: str | None = None
        self.answered = True  # no answer so far said that more of it follows

    def request(self, message: Message) -> None:
        """The first message of the request, or its beginning. Called again when more of it is there."""

    def request_counted(self, count: int) -> None:
        """How many messages the client has sent."""

    def response(self, message: Message, now_ns: int) -> None:
        """A message of the answer."""

    def output_tokens(self) -> int | None:
        """Tokens so far; None when they are not known."""
        return None

    def usage(self) -> Usage:
        """Tokens at the end."""
        return Usage()


class InferReading(Reading):
    """Triton's ModelInfer: the model's name, and a prompt's length as far as there is text in the tensors."""

    __slots__ = ()

    def request(self, message: Message) -> None:
        head = message.head
        tensors: list[tuple[str, str]] = []  # name and type of each input
        raw: list[Field] = []
        for field in fields(head):
            if field.number == 1 and self.model is None:
                self.model = text(head, field) or None
            elif field.number == 5 and len(tensors) < MAX_TENSORS:
                tensors.append(_tensor(head, field))
            elif field.number == 7 and len(raw) < MAX_TENSORS:
                raw.append(field)
        self.input_tokens = 0
        for (name, kind), field in zip(tensors, raw, strict=False):
            if kind == "BYTES":
                self.input_tokens += field.value // BYTES_PER_TOKEN
            elif name in _LIMITS and kind in ("INT32", "INT64", "UINT32", "UINT64") and field.whole:
                size = 4 if kind.endswith("32") else 8
                signed = kind.startswith("INT")
                limit = int.from_bytes(head[field.start : field.start + size], "little", signed=signed)
                self.max_output_tokens = limit if limit >= 0 else None  # -1 is how some say "no limit"


class StreamInferReading(InferReading):
    """Triton's ModelStreamInfer: an answer is a token where one request gets several; an empty last one is none."""

    __slots__ = ("_answers", "_decoupled", "_requests")

    def __init__(self) -> None:
        super().__init__(streamed=True)
        self._requests = 0
        self._answers = 0
        self._decoupled = False

    def request_counted(self, count: int) -> None:
        self._requests = count

    def response(self, message: Message, now_ns: int) -> None:
        head = message.head
        for field in fields(head):
            if field.number == 1 and field.value:
                self.error = text(head, field) or "an answer tells an error"
            elif field.number == 2:
                self._answer(head, field, now_ns)

    def _answer(self, head: bytes, answer: Field, now_ns: int) -> None:
        content = False
        final: bool | None = None
        for field in fields(head, answer.start, answer.stop):
            if field.number == 5:
                content = True
                break  # parameters come before tensors, and tensors may be long
            if field.number == 4 and final is None:
                final = _final(head, field)
            elif field.number == 1 and self.model is None:
                self.model = text(head, field) or None
        self.answered = final is not False
        if not content:
            return
        self._answers += 1
        if self.first_token_at_ns is None:
            self.first_token_at_ns = now_ns
        if final is False or self._answers > self._requests:
            self._decoupled = True

    def output_tokens(self) -> int | None:
        return self._answers if self._decoupled else None

    def usage(self) -> Usage:
        return Usage(output_tokens=self._answers, source="counted") if self._decoupled else Usage()


class MiiReading(Reading):
    """DeepSpeed-MII's GeneratorReply and GeneratorReplyStream: tokens so far of each prompt, cumulative in streams."""

    __slots__ = ("_output", "_prompt", "_reported")

    def __init__(self, *, streamed: bool) -> None:
        super().__init__(streamed=streamed)
        self._prompt = 0
        self._output = 0
        self._reported = False

    def request(self, message: Message) -> None:
        head = message.head
        prompt_bytes = 0
        for field in fields(head):
            if field.number == 1:
                prompt_bytes += field.value
            elif field.number == 2:
                name, limit = _entry(head, field)
                if name in _LIMITS and limit is not None and limit <= MAX_SIGNED:
                    self.max_output_tokens = limit
        self.input_tokens = prompt_bytes // BYTES_PER_TOKEN

    def response(self, message: Message, now_ns: int) -> None:
        head = message.head
        prompt = output = 0
        content = False
        for reply in fields(head):
            if reply.number != 1:
                continue
            if not reply.whole:
                self._reported = False
                return
            for field in fields(head, reply.start, reply.stop):
                if field.number == 1:
                    content = content or field.value > 0
                elif field.number == 2:
                    reason = text(head, field)
                    self.finish_reason = reason if reason and reason != "none" else self.finish_reason
                elif field.number == 3:
                    prompt += field.value
                elif field.number == 4:
                    output += field.value
        if content and self.streamed and self.first_token_at_ns is None:
            self.first_token_at_ns = now_ns
        if message.whole and (prompt or output):
            self._reported = True
            self._prompt, self._output = max(self._prompt, prompt), max(self._output, output)

    def output_tokens(self) -> int | None:
        return self._output if self._reported else None

    def usage(self) -> Usage:
        if not self._reported:
            return Usage()
        return Usage(input_tokens=self._prompt, output_tokens=self._output, source="reported")


def reading_for(path: str) -> Reading:
    """The reading for a method."""
    if path == _TRITON + "ModelInfer":
        return InferReading()
    if path == _TRITON + "ModelStreamInfer":
        return StreamInferReading()
    if path.startswith(_MII + "GeneratorReply"):
        return MiiReading(streamed=path.endswith("Stream"))
    return Reading()


def _tensor(data: bytes, tensor: Field) -> tuple[str, str]:
    name = kind = ""
    for field in fields(data, tensor.start, tensor.stop):
        if field.number == 1:
            name = text(data, field) or ""
        elif field.number == 2:
            kind = text(data, field) or ""
            break  # contents may follow, and be long
    return name, kind


def _final(data: bytes, entry: Field) -> bool | None:
    """Whether an entry of map<string, InferParameter> says that this is the last answer; None: it is about another.

    Its last byte is that of the truth value, the only field of the entry's value.
    """
    found = data.find(_FINAL, entry.start, entry.stop)
    return None if found < 0 or not entry.whole else data[entry.stop - 1] == 1


def _entry(data: bytes, entry: Field) -> tuple[str, int | None]:
    """Name and whole number of an entry of MII's map<string, Value>."""
    key, number = "", None
    for field in fields(data, entry.start, entry.stop):
        if field.number == 1:
            key = text(data, field) or ""
        elif field.number == 2:
            for part in fields(data, field.start, field.stop):
                if part.number == 2:
                    number = part.value
    return key, number
