"""Records of /dev/kmsg in, what the kernel itself said out (Linux, Documentation/ABI/testing/dev-kmsg). Pure."""

from typing import NamedTuple


class KernelRecord(NamedTuple):
    """One record. `at_us` counts from the boot; `from_kernel` is False for what programs wrote into the log."""

    sequence: int
    at_us: int
    from_kernel: bool
    message: str


def parse_record(data: bytes) -> KernelRecord | None:
    """`6,1234,567890,-;message` and continuation lines -> a record; None if it is none."""
    head, separator, body = data.partition(b";")
    parts = head.split(b",")
    if not separator or len(parts) < 3 or not all(part.isdigit() for part in parts[:3]):
        return None
    priority, sequence, at_us = (int(part) for part in parts[:3])
    message = body.split(b"\n", 1)[0].decode("utf-8", "replace")
    # Programs that write to /dev/kmsg cannot have facility 0: the kernel gives them another.
    return KernelRecord(sequence, at_us, priority >> 3 == 0, message)
