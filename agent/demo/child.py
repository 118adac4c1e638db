"""`python -m agent.demo.child MODULE ARGUMENTS`: MODULE as a process that ends when the demo does."""

import runpy
import sys

from agent.clock import end_with_parent

if __name__ == "__main__":
    end_with_parent()
    module, *arguments = sys.argv[1:]
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
