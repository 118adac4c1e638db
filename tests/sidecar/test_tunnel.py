"""A tunnel's ends: each side's last word reaches the other, and when both have said theirs it is over."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from agent.sidecar.tunnel import Tunnel


@dataclass
class End:
    """A transport, or a client, that notes what it is told."""

    told: list[object] = field(default_factory=list)
    half_closes: bool = True

    def write(self, data: bytes) -> None:
        self.told.append(data)

    def write_eof(self) -> None:
        self.told.append("eof")

    def close(self) -> None:
        self.told.append("close")

    def can_write_eof(self) -> bool:
        return self.half_closes


def tunnel(*, half_closes: bool = True) -> tuple[Tunnel, End, End]:
    client, engine = End(), End(half_closes=half_closes)
    upstream: Any = SimpleNamespace(transport=engine)
    return Tunnel(client, upstream), client, engine


@pytest.mark.parametrize("first", ["client", "engine"])
def test_when_both_sides_have_ended_it_is_closed(first: str) -> None:
    between, client, engine = tunnel()
    between.from_client(b"hello")
    steps = [between.client_ended, between.engine_ended]
    one, other = steps if first == "client" else reversed(steps)
    one()
    assert "close" not in engine.told
    other()
    assert engine.told[0] == b"hello"
    assert engine.told[-1] == "close"
    assert "eof" in client.told
    assert "eof" in engine.told


def test_an_engine_behind_tls_cannot_be_told_half_an_end() -> None:
    between, _, engine = tunnel(half_closes=False)
    between.client_ended()
    assert engine.told == []
    between.engine_ended()
    assert engine.told == ["close"]
