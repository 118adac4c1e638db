"""A small agent that only settles: run as a process so that a test can kill it. Prints a line after each step.

Arguments: ledger file, seed. The bill's clock is the ledger's own; GPUs, an engine and a sidecar are synthetic. Ticks
settle with a watermark of 50 ms and every 10 ms, so that a short life has many transactions. Ends when stdin closes,
by draining; a kill ends it anywhere.
"""

import random
import sys
from pathlib import Path

import anyio

from agent.ledger.ledger import Ledger
from agent.runners.settlement import Settlement
from tests.support.money import NS, Sidecar, book, engine, gpus, record


async def main(path: Path, seed: int) -> None:
    dice = random.Random(seed)
    async with await Ledger.open(path, "node-a") as ledger:
        clock = ledger.clock
        settlement = Settlement(ledger, book(), "node-a", clock, watermark_seconds=0.05)
        sidecar = Sidecar(epoch=seed + 1)
        closing = anyio.Event()

        async def watch_stdin() -> None:
            await anyio.to_thread.run_sync(sys.stdin.read)
            closing.set()

        async with anyio.create_task_group() as group:
            group.start_soon(watch_stdin)
            while not closing.is_set():
                now = clock.now_ns()
                settlement.observe_gpus(gpus(now, 2, (7,)))
                settlement.observe_engine(engine(now, output=float(now // 10**7 % 10**9), running=1.0))
                name = f"{seed}-{now}"
                begun = sidecar.start(name, now - dice.randrange(NS // 50))
                ended = sidecar.end(record(name, begun.started_at_ns, now))
                events = (begun, ended) if dice.random() < 0.8 else (begun,)
                await settlement.accept(sidecar.batch(now, *events))
                # `step` closes whole seconds; a few milliseconds at a time are killed in the middle more often.
                await settlement.settle_to(clock.now_ns() - NS // 20)
                print(settlement.settled_through_ns, flush=True)
                with anyio.move_on_after(0.01):
                    await closing.wait()
            await settlement.drain()


if __name__ == "__main__":
    anyio.run(main, Path(sys.argv[1]), int(sys.argv[2]))
