"""What `doctor` finds: a severity, what it is about, and words that say what to do."""

from typing import Literal

from msgspec import Struct

Severity = Literal["broken", "missing", "note"]
ORDER: tuple[Severity, ...] = ("broken", "missing", "note")


class Finding(Struct, frozen=True, kw_only=True):
    """One thing that an operator may want to know. `text` says what is not known or wrong, and what to do about it.

    broken: something does not work that should. missing: a right, a mount, a flag or a version is lacking, and with it
    some figures. note: as it is meant to be, and worth knowing.
    """

    severity: Severity
    subject: str  # GPU 0 NVIDIA H100, engine vllm-0, feature kernel_log, ...
    text: str
