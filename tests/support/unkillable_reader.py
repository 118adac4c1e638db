"""Starts a GPU reader that survives the killing of the process that its supervisor knows.

A process that is stuck in the driver (state D) cannot be ended by SIGKILL, and no test can make one. This stands for
it: the supervisor kills *this* process, and the reader, adopted by init, hangs on with everything it has inherited.

    python -m tests.support.unkillable_reader PIDS --interval 1 --slow-interval 10 --fd N    (the reader's arguments)
"""

import os
import sys
from pathlib import Path


def main() -> int:
    """Ends when the reader has ended; a pid for each reader is added to the file PIDS."""
    pids, *arguments = sys.argv[1:]
    ours, theirs = os.pipe()
    middle = os.fork()
    if middle == 0:
        if os.fork() > 0:
            os._exit(0)  # the reader asks to die with its parent; from now on that is init
        os.set_inheritable(theirs, True)
        with Path(pids).open("a") as file:
            file.write(f"{os.getpid()}\n")
        os.execv(sys.executable, [sys.executable, "-m", "agent.collect.gpu.reader", *arguments])
    os.waitpid(middle, 0)
    os.close(theirs)
    for position, word in enumerate(arguments):
        if word == "--fd":
            os.close(int(arguments[position + 1]))
    os.read(ours, 1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
