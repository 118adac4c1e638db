"""Answers written through pointers."""

import ctypes

from agent.demo.gpus.answers.outs import NOT_SUPPORTED, SUCCESS, overwrite, put


class Pair(ctypes.Structure):
    _fields_ = (("first", ctypes.c_uint), ("second", ctypes.c_uint))


def test_put():
    number = ctypes.c_uint(5)
    assert put(ctypes.byref(number), None) == NOT_SUPPORTED
    assert number.value == 5
    assert put(ctypes.byref(number), 7.4) == SUCCESS
    assert number.value == 7


def test_overwrite():
    number, pair = ctypes.c_uint(5), Pair(1, 2)
    overwrite((3, ctypes.byref(number)), 0xFFFFFFFF)
    overwrite((ctypes.byref(pair),), {"second": 9})
    assert (number.value, pair.first, pair.second) == (0xFFFFFFFF, 1, 9)
