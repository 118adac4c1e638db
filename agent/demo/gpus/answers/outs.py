"""Ways to write an answer into the ctypes objects that pynvml passes; codes of nvml.h."""

from typing import Any

SUCCESS = 0
UNINITIALIZED = 1
INVALID_ARGUMENT = 2
NOT_SUPPORTED = 3
NO_PERMISSION = 4
NOT_FOUND = 6
INSUFFICIENT_SIZE = 7
DRIVER_NOT_LOADED = 9
TIMEOUT = 10
GPU_IS_LOST = 15
VERSION_MISMATCH = 18
ARGUMENT_VERSION_MISMATCH = 25
GPU_NOT_FOUND = 28
UNKNOWN = 999

# nvmlValueType_t, of field values.
TYPE_DOUBLE = 0
TYPE_UNSIGNED_INT = 1
TYPE_UNSIGNED_LONG = 2
TYPE_UNSIGNED_LONG_LONG = 3
TYPE_SIGNED_LONG_LONG = 4
TYPE_SIGNED_INT = 5


class Refused(Exception):
    """The call ends with this code."""

    def __init__(self, code: int) -> None:
        super().__init__(str(code))
        self.code = code


def put(out: Any, value: float | None) -> int:
    """A number through a pointer; None: not supported."""
    if value is None:
        return NOT_SUPPORTED
    out._obj.value = round(value)
    return SUCCESS


def text(buffer: Any, value: str | None) -> int:
    """A string into a buffer; None: not supported."""
    if value is None:
        return NOT_SUPPORTED
    if len(buffer) <= len(value):
        return INSUFFICIENT_SIZE
    buffer.value = value.encode()
    return SUCCESS


def fill(out: Any, **values: float) -> int:
    """Members of a struct."""
    for name, value in values.items():
        setattr(out._obj, name, value)
    return SUCCESS


def overwrite(outs: tuple[Any, ...], value: float | dict[str, float]) -> None:
    """Another number through the first pointer, or into members of the struct behind it."""
    target = next(out._obj for out in outs if hasattr(out, "_obj"))
    for name, number in (value if isinstance(value, dict) else {"value": value}).items():
        setattr(target, name, round(number))


def zeros(*outs: Any) -> int:
    """0 through each pointer."""
    for out in outs:
        out._obj.value = 0
    return SUCCESS


def milli(value: float | None) -> float | None:
    """Watts as milliwatts."""
    return None if value is None else value * 1000
