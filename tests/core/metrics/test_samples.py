import random
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.metrics.samples import Sample, SeriesKey

NAMES = st.text(string.ascii_letters + "_", min_size=1, max_size=4)
LABELS = st.dictionaries(NAMES, st.text(max_size=4), max_size=6)


@pytest.mark.parametrize(
    ("given_labels", "kept"),
    [
        ((), ()),
        ((("b", "2"), ("a", "1")), (("a", "1"), ("b", "2"))),
        ((("b", "2"), ("B", "1")), (("B", "1"), ("b", "2"))),  # by code point, as Prometheus sorts
        ((("a", ""),), ()),
        ((("a", ""), ("b", "x")), (("b", "x"),)),
        ((("a", " "),), (("a", " "),)),
        ((("a", "0"),), (("a", "0"),)),
    ],
)
def test_labels_are_sorted_and_empty_ones_are_none(
    given_labels: tuple[tuple[str, str], ...], kept: tuple[tuple[str, str], ...]
) -> None:
    assert SeriesKey("up", given_labels).labels == kept
    assert SeriesKey("up", iter(given_labels)).labels == kept


@given(NAMES, LABELS, st.randoms(use_true_random=False))
def test_order_and_empty_labels_make_no_difference(name: str, labels: dict[str, str], dice: random.Random) -> None:
    shuffled = list(labels.items())
    dice.shuffle(shuffled)
    key, other = SeriesKey(name, labels.items()), SeriesKey(name, [*shuffled, ("zz_absent", "")])
    assert key == other
    assert hash(key) == hash(other)
    assert {key: 1}[other] == 1
    assert repr(key) == repr(other)


@given(NAMES, NAMES, LABELS, LABELS)
def test_two_keys_are_equal_when_name_and_labels_are(
    a: str, b: str, left: dict[str, str], right: dict[str, str]
) -> None:
    same = a == b and {k: v for k, v in left.items() if v} == {k: v for k, v in right.items() if v}
    assert (SeriesKey(a, left.items()) == SeriesKey(b, right.items())) is same
    assert (SeriesKey(a, left.items()) != SeriesKey(b, right.items())) is not same


@pytest.mark.parametrize("other", ["up", ("up", ()), None, Sample(SeriesKey("up"), 1.0)])
def test_a_key_equals_nothing_else(other: object) -> None:
    assert SeriesKey("up") != other


@given(LABELS)
def test_get_answers_each_label_and_the_empty_text_for_the_rest(labels: dict[str, str]) -> None:
    key = SeriesKey("up", labels.items())
    assert {name: key.get(name) for name in labels} == labels
    assert key.get("not there") == ""


def test_a_key_is_shown_as_a_selector() -> None:
    assert repr(SeriesKey("up", [("job", "vllm"), ("gpu", "0")])) == 'up{gpu="0",job="vllm"}'
    assert repr(SeriesKey("up")) == "up{}"


def test_a_key_has_no_room_for_anything_else() -> None:
    with pytest.raises(AttributeError):
        SeriesKey("up").colour = "red"  # type: ignore[attr-defined]


def test_a_sample_is_a_pair() -> None:
    key, value = Sample(SeriesKey("up"), 0.5)
    assert (key, value) == (SeriesKey("up"), 0.5)
