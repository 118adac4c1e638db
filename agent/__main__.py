"""`python -m agent` and the `engineroom` command."""

import gc
import sys

gc.disable()  # modules stay: looking for garbage among what they make is a seventh of the start. `main` enables it.

from agent.cli.main import main  # noqa: E402 - see above

if __name__ == "__main__":
    sys.exit(main())
