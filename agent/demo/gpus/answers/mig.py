"""MIG of a simulated GPU."""

from collections.abc import Callable

from agent.demo.gpus.answers.outs import zeros

DEVICE: dict[str, Callable[..., int | None]] = {
    "nvmlDeviceGetMigMode": lambda _gpu, *outs: zeros(*outs),
}
