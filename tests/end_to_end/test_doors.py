"""Locked doors between real processes: a sidecar with a pod's token, over TLS, to an agent that lets nobody else in."""

import ssl
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from tests.support.agent import RunningAgent, agent, free_port
from tests.support.credentials import (
    AUDIENCE,
    ISSUER,
    Authority,
    SigningKey,
    bearer,
    claims,
    jwks,
    make_ca,
    put,
    service_account_token,
)
from tests.support.sidecar import sidecar_process
from tests.support.upstream import connect, post, repeat, upstream, whole

USAGE = b'{"usage":{"prompt_tokens":3,"completion_tokens":4}}'
READER = "reader-0123456789abcdef"


def locked(folder: Path, authority: Authority, key: SigningKey) -> dict[str, Any]:
    """An agent for other machines too: TLS, one pod's account to send records, one token to read."""
    certificate, private_key = authority.issue("127.0.0.1").write(folder, "agent")
    accounts = [{"namespace": "inference", "name": "engineroom-sidecar", "scopes": ["ingest"]}]
    return {
        "api": {
            "tls": {"certificate_file": str(certificate), "key_file": str(private_key)},
            "auth": {
                "tokens": [
                    {
                        "name": "reader",
                        "file": str(put(folder / "reader", READER.encode())),
                        "scopes": ["metrics", "cost"],
                    }
                ],
                "service_accounts": {
                    "jwks_file": str(put(folder / "jwks.json", jwks(key))),
                    "issuer": ISSUER,
                    "audience": AUDIENCE,
                    "accounts": accounts,
                },
            },
        }
    }


def read(running: RunningAgent, authority: Path, path: str, token: str) -> tuple[int, str]:
    """What the agent says over TLS."""
    request = urllib.request.Request(f"https://127.0.0.1:{running.api}{path}", headers={"Authorization": bearer(token)})
    try:
        with urllib.request.urlopen(request, context=ssl.create_default_context(cafile=str(authority))) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def ended(running: RunningAgent, authority: Path) -> int:
    status, text = read(running, authority, "/metrics", READER)
    assert status == 200, text
    lines = (line for line in text.splitlines() if line.startswith("engineroom_records_accepted_total"))
    return sum(int(float(line.rsplit(" ", 1)[1])) for line in lines if 'kind="end"' in line)


async def test_records_pass_locked_doors_and_wait_while_the_key_is_wrong(tmp_path: Path) -> None:
    authority, key = make_ca(), SigningKey.rsa()
    ca = authority.write(tmp_path)
    token = put(tmp_path / "token", service_account_token(key).encode())
    port, admin = free_port(), free_port()
    with agent(tmp_path / "data", config=locked(tmp_path, authority, key)) as running:
        running.ready()
        async with (
            upstream(repeat(whole(USAGE))) as engine,
            sidecar_process(
                listen=f"127.0.0.1:{port}",
                admin_listen=f"127.0.0.1:{admin}",
                upstream=engine.url,
                agent_url=f"https://127.0.0.1:{running.api}",
                agent_token_file=token,
                agent_tls__ca_file=ca,
            ) as proxy,
        ):
            await proxy.until_it_says("sidecar_listening")

            async def ask(times: int) -> None:
                async with connect(port) as client:
                    for _ in range(times):
                        await client.send(post(b'{"model":"m"}'))
                        assert (await client.answer()).status == 200

            async def until_ended(count: int) -> None:
                with anyio.fail_after(60):
                    while await anyio.to_thread.run_sync(ended, running, ca) < count:  # noqa: ASYNC110 another process
                        await anyio.sleep(0.05)

            await ask(3)
            await until_ended(3)
            wrong = key.sign(claims("inference", "engineroom-sidecar", aud=["https://kubernetes.default.svc"]))
            put(token, wrong.encode())
            await ask(1)
            while "delivery_paused" not in proxy.said:  # within a second, until which the old token counts
                await ask(1)
                with anyio.move_on_after(0.2):
                    await proxy.until_it_says("delivery_paused")
            put(token, service_account_token(key).encode())
            await proxy.until_it_says("destination_recovered")
            asked = await anyio.to_thread.run_sync(_forwarded, admin)
            await until_ended(asked)
        assert read(running, ca, "/metrics", READER)[0] == 200
        assert read(running, ca, "/metrics", token.read_text())[0] == 403  # it may send records, no more
        assert read(running, ca, "/api/v1/cost/report", "no-such-token-0123456789")[0] == 401


def _forwarded(admin: int) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics") as answer:
        text = answer.read().decode()
    return next(
        int(float(line.rsplit(" ", 1)[1]))
        for line in text.splitlines()
        if line.startswith("engineroom_sidecar_forwarded_total")
    )


def test_an_agent_does_not_listen_for_other_machines_without_locks(tmp_path: Path) -> None:
    with agent(tmp_path / "data", environment={"ENGINEROOM__API__LISTEN": "0.0.0.0:0"}) as running:
        assert running.process.wait(30) == 2
