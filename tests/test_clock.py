import os
import select
import subprocess
import sys

from agent.clock import BillClock, boot_ns, unix_ns


def test_the_bill_clock_goes_on_from_its_anchor() -> None:
    clock = BillClock(1_000, boot_ns())
    assert 1_000 <= clock.now_ns() < 1_000 + 10**9
    assert abs(clock.steps_ns() - (unix_ns() - clock.now_ns())) < 10**9


ORPHAN = '''
import subprocess, sys
child = """
import signal
from agent.clock import end_with_parent
end_with_parent(); print("up", flush=True); signal.pause()
"""
p = subprocess.Popen([sys.executable, "-c", child], stdout=subprocess.PIPE)
p.stdout.readline(); print(p.pid, flush=True); sys.stdin.read()
'''


def test_a_child_ends_with_its_parent() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", ORPHAN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        orphan = os.pidfd_open(int(parent.stdout.readline()))
        parent.kill()
        parent.wait()
        # A pidfd becomes readable when its process has ended.
        readable, _, _ = select.select([orphan], [], [], 10)
        assert readable
        os.close(orphan)
