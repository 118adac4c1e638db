"""What decides how long a simulated call takes."""

from msgspec.structs import replace

from agent.demo.gpus import machine
from agent.demo.gpus.calls import KNOWN_SECONDS, call_seconds
from agent.demo.gpus.control import Control
from agent.demo.gpus.machine import RecordedCall

FACTS = machine.load("h100x8").gpus[0]
LISTING = "nvmlDeviceGetComputeRunningProcesses_v3"


def test_without_a_wish_nothing_takes_time():
    assert call_seconds(Control(), FACTS, LISTING) == 0


def test_what_others_measured():
    assert call_seconds(Control(call_seconds={}), FACTS, LISTING) == KNOWN_SECONDS[LISTING] == 4.491e-3
    assert call_seconds(Control(call_seconds={}), None, "nvmlDeviceGetIndex") == 0


def test_a_recording_is_better_and_a_wish_is_best():
    recorded = replace(FACTS, calls={LISTING: RecordedCall(seconds=0.002)})
    assert call_seconds(Control(call_seconds={"*": 1}), recorded, LISTING) == 0.002
    assert call_seconds(Control(call_seconds={LISTING: 3}), recorded, LISTING) == 3
    assert call_seconds(Control(call_seconds={"*": 1}), FACTS, "nvmlDeviceGetIndex") == 1
