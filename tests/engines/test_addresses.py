import pytest

from agent.engines.addresses import endpoint


@pytest.mark.parametrize(
    ("spelling", "same"),
    [
        ("http://127.0.0.1:8000", "127.0.0.1:8000"),
        ("http://localhost:8000/", "127.0.0.1:8000"),
        ("localhost:8000", "127.0.0.1:8000"),
        ("http://[::1]:8000", "127.0.0.1:8000"),
        ("http://0.0.0.0:8000", "127.0.0.1:8000"),
        ("http://GPU-Node", "gpu-node:80"),
        ("https://gpu-node", "gpu-node:443"),
        ("10.0.0.7:8000", "10.0.0.7:8000"),
    ],
)
def test_one_spelling_for_each_engine(spelling: str, same: str) -> None:
    assert endpoint(spelling) == same
