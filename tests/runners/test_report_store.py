from pathlib import Path

import pytest

from agent.runners.report_store import State, Store, prune, write_whole


def chunks_that_fail():
    yield b"first"
    raise OSError(28, "No space left on device")


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path):
    path = tmp_path / "folder" / "a.csv"
    with pytest.raises(OSError, match="No space"):
        write_whole(path, chunks_that_fail())
    assert list(path.parent.iterdir()) == []
    write_whole(path, [b"a", b"b"])
    assert path.read_bytes() == b"ab"
    with pytest.raises(OSError, match="No space"):
        write_whole(path, chunks_that_fail())
    assert path.read_bytes() == b"ab"


def test_the_oldest_go(tmp_path: Path):
    for name in ("a-2026-01.csv", "a-2026-W02.csv", "a-2026-02-03.csv", "a-b-2026-01.csv", "a-2026-01.json"):
        (tmp_path / name).touch()
    assert [path.name for path in prune(tmp_path, "a", ".csv", 1)] == ["a-2026-01.csv", "a-2026-02-03.csv"]
    assert prune(tmp_path / "nowhere", "a", ".csv", 1) == []


def test_the_state_survives(tmp_path: Path):
    store = Store(tmp_path)
    assert store.load() == State()
    store.save(State(made_through_ns={"a": 7}))
    assert Store(tmp_path).load().made_through_ns == {"a": 7}


def test_a_damaged_state_is_put_aside(tmp_path: Path):
    (tmp_path / "reports.state").write_bytes(b"\xff\x00")
    assert Store(tmp_path).load() == State()
    assert (tmp_path / "reports.state.damaged").read_bytes() == b"\xff\x00"


def test_what_waits_is_told_in_its_order(tmp_path: Path):
    store = Store(tmp_path)
    assert store.waiting("a") == []
    for label in ("2026-02", "2026-01"):
        store.put("a", label, b"{}", 5)
        store.put("a-b", label, b"{}", 5)
    assert [path.name for path in store.waiting("a")] == ["a-2026-01.json", "a-2026-02.json"]
