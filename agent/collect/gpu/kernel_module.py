"""Whether the NVIDIA kernel module is loaded, without NVML: asking NVML could load it into the middle of an upgrade."""

from pathlib import Path

FOLDER = Path("/sys/module/nvidia")


class KernelModule:
    """Where the module is not to be seen at all (a sandbox, WSL), it is never said to be away."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._folder = folder
        self._was_there = False

    def note(self) -> None:
        """The driver answers: if the module is to be seen here, it is now."""
        self._was_there = self._was_there or self._folder.exists()

    def away(self) -> bool:
        """It was there and is not any more."""
        return self._was_there and not self._folder.exists()
