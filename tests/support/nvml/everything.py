"""All answers of a library, as JSON: `python -m tests.support.nvml.everything GPUS UUID...` asks libnvidia-ml.so.1."""

import ctypes
import json
import sys
from typing import Any

from agent.collect.gpu.raw import SUCCESS, Choices, answers, words
from agent.collect.gpu.shapes import SHAPES


def everything(library: Any, handles: list[int], known: Choices) -> dict[str, list[list[Any]]]:
    """Function -> [what selects the answer, code, outputs], for each answer. Field values are not among them."""
    found = {}
    for function in SHAPES:
        if getattr(library, function, None) is None or "f" in words(function):
            continue
        rows = answers(library, function, {"h": handles, "g": [], "x": []}, known)
        found[function] = [
            [repr(call.key[1:]), code, call.payload().hex() if code == SUCCESS else ""] for call, code in rows
        ]
    return found


def main() -> None:
    """Ask the C library that LD_LIBRARY_PATH leads to."""
    library = ctypes.CDLL("libnvidia-ml.so.1")
    library.nvmlInitWithFlags(0)
    handles, known = json.loads(sys.argv[1])
    print(json.dumps(everything(library, handles, Choices(*known))))


if __name__ == "__main__":
    main()
