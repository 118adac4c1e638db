"""Each word of a shape is one that can be read, and names what pynvml has."""

import ctypes

import pynvml
import pytest

from agent.collect.gpu.raw import named
from agent.collect.gpu.shapes import SHAPES, STATEFUL


@pytest.mark.parametrize("function", SHAPES)
def test_every_word_is_known(function):
    for word in SHAPES[function].split():
        kind, *more = word.split(":")
        assert kind[0] in "hgxiqksovcCpfa"
        if kind[0] in "ovcCp":
            assert ctypes.sizeof(named(more[0])) > 0
        if kind in ("v", "p"):
            assert isinstance(named(more[1]), int)
            assert hasattr(named(more[0])(), "version")


def test_struct_sizes_agree_with_their_versions():
    """The lower three bytes of a version word are the size of the struct."""
    for shape in SHAPES.values():
        for word in shape.split():
            kind, *more = word.split(":")
            if kind in ("v", "p") and named(more[1]) > 0xFFFF:
                assert named(more[1]) & 0xFFFFFF == ctypes.sizeof(named(more[0])), word


def test_pynvml_calls_them_all():
    import inspect

    source = inspect.getsource(pynvml)
    assert [name for name in (*SHAPES, *STATEFUL) if f'"{name}' not in source and name != "nvmlErrorString"] == []
