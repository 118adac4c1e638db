"""Pods from a real HTTPS server: asked as little as can be, trusted as little as can be, and its refusals explained."""

import asyncio
from pathlib import Path

import pytest

from agent.collect.discovery.kubernetes.client import PodList
from agent.collect.discovery.kubernetes.settings import KubernetesSettings
from tests.support.credentials import make_ca, put
from tests.support.kubernetes_api import NODE, ApiServer, api_server, container, dumped, environ, pod

AUTO = KubernetesSettings()


def pod_list(folder: Path, server: ApiServer, **options: float) -> PodList:
    return PodList(AUTO, environ(server), folder, list_seconds=0, **options)


async def test_the_pods_of_this_node_by_one_cheap_question(tmp_path: Path) -> None:
    async with api_server(tmp_path) as server:
        server.pods = [pod("a", container()), pod("b", container(), node="other"), pod("c", phase="Pending")]
        pods = pod_list(tmp_path, server)
        await pods.step()
        assert [one.name for one in pods.pods or ()] == ["a"]
        assert pods.feature.enabled
        assert server.asked == [
            f"GET /api/v1/pods?fieldSelector=spec.nodeName%3D{NODE}&limit=250&resourceVersion=0",
        ]
        assert "Cookie" not in server.headers[0]


async def test_it_is_asked_no_more_often_than_it_should_be(tmp_path: Path) -> None:
    async with api_server(tmp_path) as server:
        pods = PodList(AUTO, environ(server), tmp_path)
        await pods.step()
        await pods.step()
        await pods.step(somebody_new=True)  # not within seconds
        assert len(server.asked) == 1
        eager = PodList(AUTO, environ(server), tmp_path, list_seconds=0)
        await eager.step(somebody_new=True)
        assert len(server.asked) == 2


async def test_pages_and_a_token_that_is_too_old(tmp_path: Path) -> None:
    async with api_server(tmp_path) as server:
        server.pods = [pod(f"p{at}", container()) for at in range(600)]
        server.pages = True
        pods = pod_list(tmp_path, server)
        await pods.step()
        assert [one.name for one in pods.pods or ()] == [f"p{at}" for at in range(600)]
        assert [asked.rpartition("&")[2] for asked in server.asked] == [
            "resourceVersion=0", "continue=250", "continue=500",
        ]  # fmt: skip
        server.expire = 1
        await pods.step()
        assert len(pods.pods or ()) == 600
        server.expire = 2
        await pods.step()
        assert "changes faster" in pods.feature.reason
        assert len(pods.pods or ()) == 600  # the last answer holds for a while


async def test_a_token_that_was_rotated_is_read_again(tmp_path: Path) -> None:
    async with api_server(tmp_path) as server:
        pods = pod_list(tmp_path, server)
        server.token = "second-token"
        await pods.step()
        assert "does not accept the agent's token" in pods.feature.reason
        put(tmp_path / "token", b"second-token\n")
        await pods.step()
        assert pods.feature.enabled


async def test_refusals_say_what_to_do(tmp_path: Path) -> None:
    async with api_server(tmp_path) as server:
        pods = pod_list(tmp_path, server)
        for status, words in ((403, 'resources ["pods"], verbs ["get", "list"]'), (500, "status 500"), (429, "429")):
            server.refuse = status
            await pods.step()
            assert words in pods.feature.reason
            assert not pods.feature.enabled
        assert pods.pods is None
        server.refuse = 0
        for body in (b"<html>", b"{", dumped({"items": [{"metadata": {"name": 5}, "spec": {}}]})):
            server.body = body
            await pods.step()
            assert "not what Kubernetes answers" in pods.feature.reason
        server.body = dumped({"items": None})
        await pods.step()
        assert pods.pods == ()


async def test_redirects_are_not_followed(tmp_path: Path) -> None:
    async with api_server(tmp_path) as server:
        server.refuse, server.location = 302, f"https://127.0.0.1:{server.port}/elsewhere"
        pods = pod_list(tmp_path, server)
        await pods.step()
        assert "status 302" in pods.feature.reason
        assert len(server.asked) == 1


async def test_a_server_of_another_cluster_gets_no_token(tmp_path: Path) -> None:
    async with api_server(tmp_path) as server:
        make_ca("another").write(tmp_path)
        pods = pod_list(tmp_path, server)
        await pods.step()
        assert "certificate is not one of this cluster" in pods.feature.reason
        assert server.asked == []


async def test_a_server_that_hangs_is_given_up(tmp_path: Path) -> None:
    async with api_server(tmp_path) as server:
        server.hang = asyncio.Event()
        pods = pod_list(tmp_path, server, timeout_seconds=0.2)
        await pods.step()
        assert "within 0.2 s" in pods.feature.reason
        server.hang.set()


async def test_nobody_there_and_what_was_told_runs_out(tmp_path: Path) -> None:
    async with api_server(tmp_path) as server:
        server.pods = [pod("a", container())]
        pods = pod_list(tmp_path, server, keep_seconds=0)
        await pods.step()
        assert not pods.stale
    await pods.step()
    assert "no answer from the API server" in pods.feature.reason
    assert len(pods.pods or ()) == 1  # names and roles hold
    assert pods.stale  # addresses do not


async def test_proxies_of_the_environment_are_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")
    async with api_server(tmp_path) as server:
        pods = pod_list(tmp_path, server)
        await pods.step()
        assert pods.feature.enabled


@pytest.mark.parametrize(
    ("settings", "environment", "words"),
    [
        (KubernetesSettings(enabled=False), {"KUBERNETES_SERVICE_HOST": "h", "NODE_NAME": "n"}, "enabled is false"),
        (AUTO, {"NODE_NAME": "n"}, "Outside of Kubernetes nothing is missing"),
        (AUTO, {"KUBERNETES_SERVICE_HOST": "h"}, "NODE_NAME"),
    ],
)
async def test_who_is_not_asked(
    tmp_path: Path, settings: KubernetesSettings, environment: dict[str, str], words: str
) -> None:
    put(tmp_path / "token", b"t")
    pods = PodList(settings, environment, tmp_path)
    await pods.step()
    assert (pods.pods, pods.feature.enabled) == (None, False)
    assert pods.feature.expected == ("KUBERNETES_SERVICE_HOST" in environment)
    assert words in pods.feature.reason


async def test_account_folder_that_is_missing_or_damaged(tmp_path: Path) -> None:
    environment = {"KUBERNETES_SERVICE_HOST": "::1", "KUBERNETES_SERVICE_PORT": "1", "NODE_NAME": "n"}
    pods = PodList(AUTO, environment, tmp_path, list_seconds=0)
    await pods.step()
    assert "automountServiceAccountToken" in pods.feature.reason
    put(tmp_path / "token", b"two\nlines")
    await pods.step()
    assert "ca.crt" in pods.feature.reason
    make_ca().write(tmp_path)
    await pods.step()
    assert "empty or damaged" in pods.feature.reason
    put(tmp_path / "token", b"good")
    await pods.step()
    assert "no answer from the API server" in pods.feature.reason
