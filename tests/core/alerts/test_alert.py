"""The fingerprint equals Alertmanager's (values from a running one); closed means resolved."""

import pytest

from agent.core.alerts.alert import Alert, AlertState, fingerprint


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ((), "cbf29ce484222325"),  # the offset basis of FNV-1a: nothing was hashed
        ((("b", "2"), ("a", "1")), fingerprint((("a", "1"), ("b", "2")))),
    ],
)
def test_fingerprint(labels, expected):
    # tests/exporters/test_alertmanager.py compares with the fingerprint that a real Alertmanager answers.
    assert fingerprint(labels) == expected


def test_where_name_and_value_meet_matters():
    assert fingerprint((("ab", "c"),)) != fingerprint((("a", "bc"),))


@pytest.mark.parametrize(
    ("state", "closed"), [(AlertState.PENDING, False), (AlertState.FIRING, False), (AlertState.RESOLVED, True)]
)
def test_closed(state, closed):
    alert = Alert(rule="A", group="g", labels=(), annotations=(), state=state, value=1.0, active_at_ns=0)
    assert alert.closed is closed
