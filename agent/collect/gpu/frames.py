"""What the GPU reader and its supervisor say to each other: length-prefixed msgpack over a socket pair.

One frame is a 4-byte big-endian length and that many bytes of one tagged Struct. The supervisor sends a `Tick`; the
reader answers with a `Touching` before and a `GpuRead` after each GPU, a `Told` when NVML has told of errors, and one
`TickEnded`. The reader owns no clock: every instant comes with the tick.
"""

import struct

import msgspec
from msgspec import Struct

from agent.core.gpu_readings import DriverState, GpuReading, XidEvent

_HEAD = struct.Struct(">I")
MAX_FRAME_BYTES = 16 * 2**20

# Exit statuses with which the reader asks for a new process.
EXIT_VERSION_MISMATCH = 75
EXIT_ALL_UNKNOWN = 76
EXIT_DRIVER_AWAY = 77  # NVML cannot be used; nothing of it is to stay open or mapped meanwhile
EXIT_DRIVER_LEAVING = 78  # the driver is being unbound from a GPU and waits for everybody to let go


class Tick(Struct, frozen=True, kw_only=True, tag="tick"):
    """Read all GPUs now, except those of `skip` (NVML indices). Instants are of the supervisor's clocks."""

    unix_ns: int
    boot_ns: int
    skip: tuple[int, ...] = ()


class Touching(Struct, frozen=True, kw_only=True, tag="touching"):
    """The next driver call may never return. `index` is None for calls that concern the driver as a whole."""

    what: str
    index: int | None = None
    first: bool = False  # first contact: may take long where persistence mode is off


class GpuRead(Struct, frozen=True, kw_only=True, tag="gpu"):
    """One GPU has answered, or is known not to. `uuid` of the reading is empty while the GPU was never identified."""

    reading: GpuReading


class Told(Struct, frozen=True, kw_only=True, tag="told"):
    """Errors that NVML has told since the last tick; sent before a GPU is touched, since it may hang on that error."""

    xids: tuple[XidEvent, ...]


class TickEnded(Struct, frozen=True, kw_only=True, tag="end"):
    """The tick is over. Totals are since the reader started; keys of `errors` are ``function: meaning (code)``."""

    driver: DriverState
    message: str = ""
    call_seconds: dict[str, float] = {}
    calls: dict[str, int] = {}
    errors: dict[str, int] = {}
    missing: tuple[str, ...] = ()
    forbidden: dict[str, str] = {}
    tier_stretch: float = 1.0
    gpus_counted: int | None = None
    events_watched: bool | None = None
    events_problem: str = ""
    events_seen: dict[str, int] = {}
    events_dropped: int = 0


Answer = Touching | GpuRead | Told | TickEnded

_encoder = msgspec.msgpack.Encoder()
_tick_decoder = msgspec.msgpack.Decoder(Tick)
_answer_decoder = msgspec.msgpack.Decoder(Answer)


def encode(message: Tick | Answer) -> bytes:
    """One frame, ready to send."""
    body = _encoder.encode(message)
    return _HEAD.pack(len(body)) + body


def decode_tick(body: bytes) -> Tick:
    """Raises msgspec.DecodeError if it is not a `Tick`."""
    return _tick_decoder.decode(body)


def decode_answer(body: bytes) -> Answer:
    """Raises msgspec.DecodeError if it is none of the reader's messages."""
    answer: Answer = _answer_decoder.decode(body)
    return answer


class FrameBuffer:
    """Bytes as they arrive in, bodies of whole frames out."""

    def __init__(self) -> None:
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Raises ValueError on an impossible length: the stream cannot be trusted any further."""
        self._pending += data
        bodies = []
        while len(self._pending) >= _HEAD.size:
            (length,) = _HEAD.unpack_from(self._pending)
            if length > MAX_FRAME_BYTES:
                raise ValueError(f"a frame of {length} bytes is announced; the most is {MAX_FRAME_BYTES}")
            end = _HEAD.size + length
            if len(self._pending) < end:
                break
            bodies.append(bytes(self._pending[_HEAD.size : end]))
            del self._pending[:end]
        return bodies
