"""The GPU reader: a process that owns NVML. Ticks in and readings out over the socket it was given; see frames.py.

A wedged driver call can make a process impossible to kill, so this one is kept expendable: no locks, no files, few
imports; one thread reads, a second one waits for events. It ends when its supervisor closes the socket or dies, and
by itself when the driver goes away.
"""

import argparse
import signal
import socket
import sys
from collections.abc import Callable, Sequence

from agent.clock import end_with_parent
from agent.collect.gpu.codes import right_for
from agent.collect.gpu.driver import Driver, Replace
from agent.collect.gpu.events import EventWatch
from agent.collect.gpu.frames import Answer, FrameBuffer, GpuRead, Tick, TickEnded, Told, decode_tick, encode
from agent.collect.gpu.meters import NS


def parser() -> argparse.ArgumentParser:
    """Options that the supervisor gives to every reader."""
    options = argparse.ArgumentParser(prog="agent.collect.gpu.reader", description=__doc__)
    options.add_argument("--fd", type=int, required=True, help="inherited end of a connected socket pair")
    options.add_argument("--interval", type=float, default=1.0, help="seconds between ticks")
    options.add_argument("--slow-interval", type=float, default=10.0, help="seconds between readings of dear values")
    return options


def serve(connection: socket.socket, driver: Driver, before_tick: Callable[[Tick], None] | None = None) -> int:
    """Answer ticks until the other end closes. Returns the exit status."""

    def send(answer: Answer) -> None:
        connection.sendall(encode(answer))

    def end_tick() -> None:
        calls = driver.calls
        send(
            TickEnded(
                driver=driver.state,
                message=driver.message,
                call_seconds=calls.seconds,
                calls=calls.counts,
                errors=calls.errors,
                missing=tuple(sorted(calls.missing)),
                forbidden={function: right_for(function) for function in sorted(calls.forbidden)},
                tier_stretch=driver.tier_stretch,
                gpus_counted=driver.gpus_counted,
                events_watched=driver.events.watched if driver.events is not None else None,
                events_problem=driver.events.problem if driver.events is not None else "",
                events_seen=driver.events_seen,
                events_dropped=driver.events_dropped,
            )
        )

    frames = FrameBuffer()
    try:
        while data := connection.recv(65536):
            for body in frames.feed(data):
                tick = decode_tick(body)
                if before_tick is not None:
                    before_tick(tick)
                try:
                    if xids := driver.notice(tick):
                        send(Told(xids=xids))
                    for reading in driver.tick(tick, send):
                        send(GpuRead(reading=reading))
                finally:
                    # Also when this process is to be replaced: the supervisor is told why.
                    end_tick()
    except Replace as wish:
        return wish.status
    except (BrokenPipeError, ConnectionResetError):
        pass  # the supervisor has gone; nothing is left to answer
    finally:
        driver.close()
    return 0


def start(options: argparse.Namespace, before_tick: Callable[[Tick], None] | None = None, *, simulated: bool) -> int:
    """Become a reader on the socket that `options` name."""
    # Ctrl-C goes to the whole process group; the supervisor decides when this one ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    driver = Driver(
        int(options.slow_interval * NS), int(options.interval * NS), simulated=simulated, events=EventWatch()
    )
    with socket.socket(fileno=options.fd) as connection:
        return serve(connection, driver, before_tick)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of the reader; returns its exit status."""
    return start(parser().parse_args(arguments), simulated=False)


if __name__ == "__main__":
    sys.exit(main())
