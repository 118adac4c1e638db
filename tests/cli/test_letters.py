import fcntl
from pathlib import Path
from typing import Any

import pytest

from agent.cli.letters import Access, Failed, access, change_here, change_there, find, is_open
from agent.core.ports import ConfigError
from agent.doors.settings import ClientTlsSettings
from agent.sidecar.settings import SidecarSettings
from agent.spool.inspect import stat
from tests.support.credentials import make_ca
from tests.support.http import Reply, answer, raw, told_server
from tests.support.sidecar import NOWHERE, sidecar
from tests.support.spool_folders import SMALL, dead_letter, make_stream

ITEM = b"\x92\x01\x80"  # an event of epoch 1
TOKEN = "a-token-of-the-administrator"
NO_TLS = ClientTlsSettings()


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    folder = tmp_path / "spool"
    make_stream(folder / "records", 1, settled=[1])
    make_stream(folder / "dead-letters", 3, data=lambda number: dead_letter(number, ITEM))
    return folder


def running(spool: Path, **settings: Any) -> Any:
    return sidecar(NOWHERE, agent_url=NOWHERE, spool_dir=spool, ship_drain_seconds=0.0, **settings)


def test_letters_are_found_with_their_numbers(spool: Path) -> None:
    found = list(find(spool))
    assert [one.number for one in found] == [1, 2, 3]
    assert all(one.letter is not None and one.letter.item == ITEM for one in found)


def test_who_has_the_lock_has_it_open(tmp_path: Path) -> None:
    assert not is_open(tmp_path)
    with (tmp_path / "lock").open("w") as lock:
        assert not is_open(tmp_path)
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert is_open(tmp_path)
    assert not is_open(tmp_path)


async def test_what_is_put_back_is_durable_before_the_letter_goes(spool: Path) -> None:
    assert await change_here(spool, SMALL, {1, 3}, discard=False) == (2, 0)
    assert stat(spool / "records").waiting == 2
    assert stat(spool / "dead-letters").results == {"delivered": 2}
    assert await change_here(spool, SMALL, None, discard=True) == (1, 0)
    assert stat(spool / "dead-letters").results == {"delivered": 2, "dropped:discarded": 1}


async def test_where_there_is_no_room_nothing_is_lost_and_the_reason_is_told(
    spool: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.cli.letters.ROOM_SECONDS", 0.3)
    full = SMALL.model_copy(update={"min_free_bytes": 1 << 60})
    for file in (spool / "records").glob("*.seg"):
        file.unlink()
    with pytest.raises(Failed, match=r"stream records takes nothing: .* stay free on the volume; make room"):
        await change_here(spool, full, None, discard=False)
    assert len(list(find(spool))) == 3


# Where the owner is reached


@pytest.mark.parametrize(
    ("listen", "url"),
    [
        ("127.0.0.1:9481", "http://127.0.0.1:9481"),
        ("[::1]:9481", "http://[::1]:9481"),
        ("0.0.0.0:9481", "http://127.0.0.1:9481"),
        ("[::]:9481", "http://[::1]:9481"),
        ("node-7:9481", "http://node-7:9481"),
    ],
)
def test_the_address_follows_the_settings(listen: str, url: str) -> None:
    settings = SidecarSettings.model_validate({"admin_listen": listen})
    assert access(settings, None, None, NO_TLS) == Access(url, None, NO_TLS)


def test_a_listener_with_tls_is_reached_with_tls() -> None:
    settings = SidecarSettings.model_validate({"admin_tls": {"certificate_file": "a.crt", "key_file": "a.key"}})
    assert access(settings, None, None, NO_TLS).url == "https://127.0.0.1:9481"


def test_only_a_token_with_the_scope_is_taken_from_the_settings(tmp_path: Path) -> None:
    for name in ("reader", "admin"):
        (tmp_path / name).write_text(f"the-token-of-{name}")
    tokens = [
        {"name": "gone", "file": tmp_path / "gone", "scopes": ["admin"]},
        {"name": "reader", "file": tmp_path / "reader", "scopes": ["metrics"]},
        {"name": "admin", "file": tmp_path / "admin", "scopes": ["metrics", "admin"]},
    ]
    settings = SidecarSettings.model_validate({"admin_auth": {"tokens": tokens}})
    assert access(settings, None, None, NO_TLS).token == "the-token-of-admin"


def test_what_cannot_be_an_address_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"--url: expected http://host:port"):
        access(SidecarSettings(), "127.0.0.1:9481", None, NO_TLS)


@pytest.mark.parametrize("url", ["http://", "http://[::1", "http://host:99999999"])
async def test_an_address_that_is_none_is_told(url: str) -> None:
    with pytest.raises((ConfigError, Failed)):
        await change_there(Access(url), {1}, discard=False)


# Asking it


async def test_a_sidecar_with_locks_wants_a_token_with_the_scope(spool: Path, tmp_path: Path) -> None:
    (tmp_path / "admin").write_text(TOKEN)
    (tmp_path / "reader").write_text(TOKEN[::-1])
    tokens = [
        {"name": "reader", "file": tmp_path / "reader", "scopes": ["metrics"]},
        {"name": "admin", "file": tmp_path / "admin", "scopes": ["admin"]},
    ]
    async with running(spool, admin_auth={"tokens": tokens}) as proxy:
        url = f"http://127.0.0.1:{proxy.admin_port}"
        with pytest.raises(ConfigError, match="it wants a token"):
            await change_there(Access(url), {1}, discard=False)
        with pytest.raises(ConfigError, match="it does not know this token"):
            await change_there(Access(url, "x" * 30), {1}, discard=False)
        with pytest.raises(ConfigError, match="this needs a token with the scope `admin`"):
            await change_there(Access(url, TOKEN[::-1]), {1}, discard=False)
        assert await change_there(Access(url, TOKEN), {1}, discard=False) == 1
        assert await change_there(Access(url, TOKEN), None, discard=True) == 2


async def test_a_sidecar_behind_tls(spool: Path, tmp_path: Path) -> None:
    authority = make_ca()
    trusting = ClientTlsSettings(ca_file=authority.write(tmp_path))
    certificate, key = authority.issue().write(tmp_path)
    async with running(spool, admin_tls={"certificate_file": certificate, "key_file": key}) as proxy:
        with pytest.raises(Failed, match=r"TLS failed: .*--ca-file"):
            await change_there(Access(f"https://127.0.0.1:{proxy.admin_port}"), {1}, discard=False)
        with pytest.raises(Failed, match="if that address speaks TLS, give --url https://"):
            await change_there(Access(f"http://127.0.0.1:{proxy.admin_port}"), {1}, discard=False)
        there = Access(f"https://localhost:{proxy.admin_port}", None, trusting)
        assert await change_there(there, {1}, discard=False) == 1


async def test_a_plain_port_that_is_asked_with_tls(spool: Path) -> None:
    async with running(spool) as proxy:
        with pytest.raises(Failed):
            await change_there(Access(f"https://127.0.0.1:{proxy.admin_port}"), {1}, discard=False)


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (answer(b"<html>"), "its answer cannot be understood"),
        (answer(b"no", status=404), "there is no such path"),
        (answer(b'{"detail": "Ask again later."}', status=503), "status 503. It says: Ask again later."),
        (answer(b"[" * 5000, status=500), "status 500."),
        (raw(b"SSH-2.0-x\r\n"), "no answer in HTTP"),
        (raw(b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:9/\r\nContent-Length: 0\r\n\r\n"), "status 302"),
    ],
)
async def test_something_else_at_the_address(reply: Reply, said: str) -> None:
    async with told_server({"/admin/v1/dlq/replay": reply}) as other:
        with pytest.raises(Failed) as told:
            await change_there(Access(other.url, TOKEN), {1}, discard=False)
    assert said in str(told.value)
    assert TOKEN not in str(told.value)


async def test_many_numbers_go_in_several_requests() -> None:
    async with told_server({"/admin/v1/dlq/discard": answer(b'{"discarded": 4}')}) as other:
        assert await change_there(Access(other.url), range(1, 25_001), discard=True) == 12
    assert len(other.asked) == 3
