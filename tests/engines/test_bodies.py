"""JSON bodies of engines: what is not named stays out, and nothing in them is an error."""

import msgspec

from agent.engines.bodies import decode


class Told(msgspec.Struct):
    model: str | None = None


def test_only_what_is_named_is_kept() -> None:
    found = decode({"/about": Told}, {"/about": b'{"model": "m", "api_key": "secret"}', "/other": b"{}"})
    assert found == {"/about": Told(model="m")}


def test_what_has_another_shape_is_left_out() -> None:
    assert decode({"/a": Told, "/b": Told, "/c": Told}, {"/a": b"<html>", "/b": b"[]", "/c": b'{"model": 3}'}) == {}
