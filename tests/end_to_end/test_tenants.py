"""Whose a request is, asked of the whole sidecar over HTTP: keys, tokens, hops, users; what the engine and we keep."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import anyio
import pytest

from agent.clock import NS, unix_ns
from agent.doors.service_accounts import LEEWAY_SECONDS
from tests.support.credentials import put, service_account_token
from tests.support.gateway import BODY, Member, gateway
from tests.support.sidecar import Proxy, events, record, records
from tests.support.tenancy import (
    CLUSTER,
    KEY,
    OTHER_KEY,
    account_settings,
    digest,
    jwt_settings,
    keys_file,
    provider_token,
)
from tests.support.upstream import Message, Wire, connect, post, until

CHAT = b'{"model":"tiny","messages":[]}'
REFUSE = {"without_tenant": "refuse"}


def bearer(secret: str) -> str:
    return f"authorization: Bearer {secret}\r\n"


def good_token(**claims: Any) -> str:
    return provider_token(**{"exp": unix_ns() // NS + 3600, **claims})


async def say(client: Wire, more: str = "", body: bytes = CHAT, path: str = "/v1/chat/completions") -> Message:
    await client.send(post(body, path=path, more=more))
    return await client.answer()


async def whose(proxy: Proxy, *requests: str) -> list[tuple[str | None, str | None]]:
    """Tenant and source of requests with these headers, as they are recorded; each twice, the second one unparsed."""
    async with connect(proxy.port) as client:
        for more in requests:
            for _ in range(2):
                assert (await say(client, more)).body == BODY
    await until(lambda: len(records(proxy)) == 2 * len(requests))
    said = [(seen.tenant, seen.tenant_source) for seen in records(proxy)]
    assert said[::2] == said[1::2]
    return said[::2]


def nowhere(member: Member, *secrets: str) -> None:
    """None of these reached the engine."""
    heard = b"".join(message.head for message in member.heard).decode("latin-1")
    assert heard
    for secret in secrets:
        assert secret not in heard


async def test_keys_tokens_headers_and_users_name_their_tenants(tmp_path: Path) -> None:
    tenancy = {
        "keys_file": keys_file(tmp_path),
        "jwt": jwt_settings(tmp_path),
        "service_accounts": account_settings(tmp_path),
        "trusted_hops": ["127.0.0.1"],
    }
    token, account = good_token(tenant="globex"), service_account_token(CLUSTER, "inference")
    async with gateway("good", tenancy=tenancy) as (proxy, (engine,)):
        assert await whose(
            proxy,
            bearer(KEY),
            f"x-api-key: {KEY}\r\n",
            bearer(token),
            bearer(account),
            "x-engineroom-tenant: initech\r\n",
            bearer(KEY) + "x-engineroom-tenant: initech\r\n",
            bearer(OTHER_KEY),
            "",
        ) == [
            ("acme", "key"),
            ("acme", "key"),
            ("globex", "jwt"),
            ("inference", "service_account"),
            ("initech", "header"),
            ("acme", "key"),
            (None, None),
            (None, None),
        ]
        nowhere(engine, KEY, token, account)
        passed_on = [message.field("authorization") for message in engine.heard if message.field("authorization")]
        assert passed_on == [f"Bearer {OTHER_KEY}"] * 2  # the engine's own affair, as far as we know


@pytest.mark.parametrize("hops", [["10.0.0.0/8"], []])
async def test_a_header_of_anybody_is_not_believed_where_hops_are_named(hops: list[str]) -> None:
    async with gateway("good", tenancy={"trusted_hops": hops}) as (proxy, _):
        assert await whose(proxy, "x-engineroom-tenant: acme\r\n") == [(None, None)]


async def test_the_engines_own_key_takes_the_place_of_ours(tmp_path: Path) -> None:
    own = put(tmp_path / "engine.key", b"sk-of-the-engine\n")
    tenancy = {"keys_file": keys_file(tmp_path), "engine_key_file": own, **REFUSE}
    async with gateway("good", tenancy=tenancy) as (proxy, (engine,)):
        await whose(proxy, f"x-api-key: {KEY}\r\n", bearer(KEY) + f"api-key: {KEY}\r\n")
        nowhere(engine, KEY)
        assert [message.fields("authorization") for message in engine.heard] == [["Bearer sk-of-the-engine"]] * 4
        put(own, b"sk-a-new-one\n")
        async with connect(proxy.port) as client:
            with anyio.fail_after(5):
                while engine.heard[-1].field("authorization") != "Bearer sk-a-new-one":
                    assert (await say(client, bearer(KEY))).status == 200


async def test_no_key_is_kept_or_told_anywhere(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    secrets = (KEY, OTHER_KEY, good_token(), good_token(aud="another"))
    tenancy = {"keys_file": keys_file(tmp_path), "jwt": jwt_settings(tmp_path), **REFUSE}
    async with gateway("good", tenancy=tenancy) as (proxy, _), connect(proxy.port) as client:
        answers = [await say(client, bearer(secrets[0]))]
        for secret in secrets[1:]:
            async with connect(proxy.port) as another:
                answers.append(await say(another, bearer(secret)))
        assert [answer.status for answer in answers] == [200, 401, 200, 401]
        await until(lambda: len(records(proxy)) == 4)
        said = b"".join(answer.head + answer.body for answer in answers) + repr(events(proxy)).encode()
        said += b"".join(file.read_bytes() for file in proxy.folder.rglob("*") if file.is_file())
        async with connect(proxy.admin_port) as admin:
            await admin.send(b"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n")
            said += (await admin.answer()).body
    said += "".join(capsys.readouterr()).encode()
    assert b"request_refused" in said
    for secret in secrets:
        assert secret.encode() not in said
        assert digest(secret).encode() not in said


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/v1/chat/completions", ("error", "type")),
        ("/v1/messages", ("error", "type")),
        ("/api/chat", ("error",)),
    ],
)
@pytest.mark.parametrize("given", ["", bearer(OTHER_KEY)], ids=["none", "unknown"])
async def test_who_is_not_known_is_refused_in_the_words_of_its_api(
    tmp_path: Path, path: str, shape: tuple[str, ...], given: str
) -> None:
    tenancy = {"keys_file": keys_file(tmp_path), **REFUSE}
    async with gateway("good", tenancy=tenancy) as (proxy, (engine,)):
        async with connect(proxy.port) as client:
            answer = await say(client, given, path=path)
        assert answer.status == 401
        assert answer.field("www-authenticate") == 'Bearer realm="engineroom"'
        assert answer.field("content-type") == "application/json"
        said: Any = json.loads(answer.body)
        for name in shape:
            said = said[name]
        assert (said == "authentication_error") if len(shape) == 2 else isinstance(said, str)
        if path == "/v1/chat/completions":
            assert json.loads(answer.body)["error"]["code"] == "invalid_api_key"
        seen = await record(proxy)
        assert (seen.outcome, seen.status, seen.error, seen.tenant) == ("rejected", 401, "invalid_api_key", None)
        assert answer.field("x-engineroom-request-id") == seen.id
        assert not engine.heard


async def test_a_refusal_waits_for_no_body_and_asks_for_none(tmp_path: Path) -> None:
    tenancy = {"keys_file": keys_file(tmp_path), **REFUSE}
    async with gateway("good", tenancy=tenancy) as (proxy, (engine,)), connect(proxy.port) as client:
        request = post(b"x" * 100_000, more="expect: 100-continue\r\n" + bearer(OTHER_KEY))
        await client.send(request[: request.index(b"\r\n\r\n") + 4])
        assert (await client.head()).status == 401  # and no 100 before it
        assert engine.at.connections == 0
        assert (await record(proxy)).outcome == "rejected"


async def test_probes_and_listings_need_a_key_too(tmp_path: Path) -> None:
    tenancy = {"keys_file": keys_file(tmp_path), **REFUSE}
    async with gateway("good", tenancy=tenancy) as (proxy, (engine,)):
        async with connect(proxy.port) as client:
            await client.send(b"GET /v1/models HTTP/1.1\r\nhost: e\r\n\r\n")
            assert (await client.answer()).status == 401
        async with connect(proxy.port) as client:
            await client.send(f"HEAD /v1/models HTTP/1.1\r\nhost: e\r\n{bearer(OTHER_KEY)}\r\n".encode())
            head = await client.head()
            assert head.status == 401
        async with connect(proxy.port) as client:
            await client.send(b"GET /ws HTTP/1.1\r\nhost: e\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
            assert (await client.answer()).status == 401
        assert not engine.heard


async def test_a_key_that_is_taken_out_of_the_file_ends_on_a_connection_in_use(tmp_path: Path) -> None:
    """Although the sidecar remembers heads."""
    file = keys_file(tmp_path)
    async with (
        gateway("good", tenancy={"keys_file": file, **REFUSE}) as (proxy, _),
        connect(proxy.port) as old,
        connect(proxy.port) as new,
    ):
        for _ in range(3):
            assert (await say(old, bearer(KEY))).status == 200
        keys_file(tmp_path, f"{digest(OTHER_KEY)} globex")
        with anyio.fail_after(5):
            while (await say(old, bearer(KEY))).status == 200:
                pass
        assert (await say(new, bearer(OTHER_KEY))).status == 200
        keys_file(tmp_path, f"{digest(OTHER_KEY)} initech")
        with anyio.fail_after(5):
            while True:
                assert (await say(new, bearer(OTHER_KEY))).status == 200
                count = len(proxy.forwarder.recorder.tally.outcomes)
                await until(lambda: len(records(proxy)) >= count)  # noqa: B023
                if records(proxy)[-1].tenant == "initech":
                    break
        tenants = [seen.tenant for seen in records(proxy)]
        assert {"acme", None, "globex", "initech"} == set(tenants)


async def test_a_key_that_ends_ends_on_a_connection_in_use(tmp_path: Path) -> None:
    ends = (datetime.now(UTC) + timedelta(seconds=2)).replace(microsecond=0)
    file = keys_file(tmp_path, f"{digest(KEY)} expires={ends.isoformat()} acme")
    async with (
        gateway("good", tenancy={"keys_file": file, **REFUSE}) as (proxy, (engine,)),
        connect(proxy.port) as client,
    ):
        with anyio.fail_after(8):
            while (answer := await say(client, bearer(KEY))).status == 200:
                assert unix_ns() < (ends.timestamp() + 0.5) * NS
        assert answer.status == 401
        assert unix_ns() >= ends.timestamp() * NS
        assert "expired" in json.loads(answer.body)["error"]["message"]
        assert len(engine.heard) > 1


async def test_a_token_that_ends_ends_on_a_connection_in_use(tmp_path: Path) -> None:
    """Clocks may differ by the leeway; two seconds are left of it."""
    ends = unix_ns() // NS + 2
    token = good_token(exp=ends - LEEWAY_SECONDS)
    async with (
        gateway("good", tenancy={"jwt": jwt_settings(tmp_path), **REFUSE}) as (proxy, (engine,)),
        connect(proxy.port) as client,
    ):
        with anyio.fail_after(8):
            while (answer := await say(client, bearer(token))).status == 200:
                assert unix_ns() < (ends + 0.5) * NS
        assert answer.status == 401
        assert unix_ns() >= ends * NS
        assert len(engine.heard) > 1


@pytest.mark.parametrize("pieces", [1, 2], ids=["whole", "head-first"])
@pytest.mark.parametrize(("setting", "tenant"), [("anybody", "u:alice"), ("never", None), ("trusted", None)])
async def test_the_bodys_user_names_the_tenant_where_it_may(pieces: int, setting: str, tenant: str | None) -> None:
    tenancy = {"body_user": setting, "body_user_prefix": "u:", "trusted_hops": ["10.0.0.1"]}
    body = b'{"model":"tiny","user":"alice"}'
    request = post(body)
    at = len(request) if pieces == 1 else request.index(b"\r\n\r\n") + 4
    async with gateway("good", tenancy=tenancy) as (proxy, (engine,)), connect(proxy.port) as client:
        for number in range(1, 3):
            await client.send(request[:at])
            if pieces == 2:
                await until(lambda: len(proxy.forwarder.active) == 1)
                await client.send(request[at:])
            assert (await client.answer()).status == 200
            await until(lambda: len(records(proxy)) == number)  # noqa: B023
        assert {seen.tenant for seen in records(proxy)} == {tenant}
        assert {seen.tenant_source for seen in records(proxy)} == {"user" if tenant else None}
        assert {message.body for message in engine.heard} == {body}


async def test_tenants_beyond_the_bound_are_one() -> None:
    async with gateway("good", tenancy={"max_tenants": 2}) as (proxy, _):
        names = ("a", "b", "c", "d", "a")
        found = await whose(proxy, *(f"x-engineroom-tenant: {name}\r\n" for name in names))
        assert [tenant for tenant, _ in found] == ["a", "b", "other", "other", "a"]


async def test_a_header_that_two_said_is_nobodys() -> None:
    async with gateway("good") as (proxy, _):
        twice = "x-engineroom-tenant: acme\r\nx-engineroom-tenant: globex\r\n"
        assert await whose(proxy, twice, "X-Engineroom-Tenant: acme\r\n") == [(None, "header"), ("acme", "header")]
