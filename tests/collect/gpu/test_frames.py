import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.collect.gpu import frames
from agent.core.gpu_readings import GpuReading, XidEvent

READING = GpuReading(uuid="GPU-1", index=0, model="M", read_at_ns=5, state="ok", power_watts=70.5)
ANSWERS = [
    frames.Touching(what="nvmlInit", first=True),
    frames.Touching(what="readings", index=3),
    frames.GpuRead(reading=READING),
    frames.TickEnded(driver="ok", call_seconds={"nvmlInit": 0.5}, calls={"nvmlInit": 1}),
]


@given(st.lists(st.integers(min_value=1, max_value=40), max_size=50))
def test_messages_survive_any_split(cuts):
    stream = b"".join(frames.encode(answer) for answer in ANSWERS)
    buffer = frames.FrameBuffer()
    bodies = []
    for cut in cuts:
        bodies += buffer.feed(stream[:cut])
        stream = stream[cut:]
    bodies += buffer.feed(stream)
    assert [frames.decode_answer(body) for body in bodies] == ANSWERS


def test_ticks_survive():
    tick = frames.Tick(unix_ns=1, boot_ns=2, skip=(5,))
    (body,) = frames.FrameBuffer().feed(frames.encode(tick))
    assert frames.decode_tick(body) == tick


def test_an_impossible_length_is_refused():
    with pytest.raises(ValueError, match="announced"):
        frames.FrameBuffer().feed(b"\xff\xff\xff\xff")


def test_errors_and_the_account_of_a_tick_travel():
    told = frames.Told(xids=(XidEvent(at_ns=1, uuid="GPU-1", xid=79, source="nvml", count=3),))
    ended = frames.TickEnded(driver="ok", missing=("a",), forbidden={"b": "root"}, events_watched=True)
    buffer = frames.FrameBuffer()
    found = [frames.decode_answer(body) for body in buffer.feed(frames.encode(told) + frames.encode(ended))]
    assert found == [told, ended]
