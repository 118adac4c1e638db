"""JSON bodies of engines: what is not named stays out, and nothing in them is an error."""

import msgspec
import pytest

from agent.engines.bodies import decode


class Told(msgspec.Struct):
    model: str | None = None


def test_only_what_is_named_is_kept() -> None:
    found = decode({"/about": Told}, {"/about": b'{"model": "m", "api_key": "secret"}', "/other": b"{}"})
    assert found == {"/about": Told(model="m")}


@pytest.mark.parametrize("body", [b'{"model": "\xff"}', b'{"x":' + b"[" * 200_000 + b"]" * 200_000 + b"}", b"", b"\0"])
def test_nonsense_is_left_out(body: bytes) -> None:
    assert decode({"/a": Told}, {"/a": body}) == {}


def test_what_has_another_shape_is_left_out() -> None:
    assert decode({"/a": Told, "/b": Told, "/c": Told}, {"/a": b"<html>", "/b": b"[]", "/c": b'{"model": 3}'}) == {}
