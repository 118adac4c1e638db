import pytest

from agent.core.xids import ACTIONS, CONTAINED, COUNTED_FROM_ZERO, CRITICAL, XIDS, fact

APPLICATION = (13, 31, 43, 45, 68, 69, 109)
HARDWARE = (48, 62, 64, 74, 79, 95, 119, 120, 136, 140, 143)
INFORMATION = (63, 92, 154)


def test_every_code_has_an_action_in_words_and_a_meaning():
    for known in XIDS.values():
        assert known.remedy == ACTIONS[known.action]
        assert known.meaning
        assert known.meaning == known.meaning.strip()
    assert {known.action for known in XIDS.values()} == ACTIONS.keys()


@pytest.mark.parametrize(
    ("codes", "kind"), [(APPLICATION, "application"), (HARDWARE, "hardware"), (INFORMATION, "info")]
)
def test_classes_of_the_codes_that_matter(codes, kind):
    assert {fact(code).kind for code in codes} == {kind}


def test_critical_ones_are_about_the_device():
    assert set(HARDWARE) == CRITICAL
    assert all(fact(code).critical for code in CRITICAL)
    assert not fact(94).critical
    assert set(COUNTED_FROM_ZERO) >= {*CRITICAL, *CONTAINED}
    assert set(COUNTED_FROM_ZERO) <= XIDS.keys()


def test_a_code_newer_than_the_table():
    unknown = fact(4711)
    assert (unknown.kind, unknown.action, unknown.critical) == ("unknown", "NOT_STATED", False)
    assert unknown.remedy
    assert "no number" in fact(999).meaning
