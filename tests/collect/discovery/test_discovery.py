"""Discovery: what is found, under which name, what becomes of it; and that it has no means to ask an engine."""

import ast
from pathlib import Path

import pytest

import agent.collect.discovery
from agent.collect.discovery.kubernetes.client import PodList
from agent.collect.discovery.kubernetes.settings import KubernetesSettings
from agent.collect.discovery.processes.table import ProcessTable
from agent.collect.engines.targets import EngineTarget
from tests.support.discovery_watch import DiscoveryWatch
from tests.support.kubernetes_api import ApiServer, api_server, container, environ, pod
from tests.support.made_up_engines import MADE_UP, line
from tests.support.proc_tree import ProcTree

ID = "a" * 64
IN_POD = f"0::/kubepods/burstable/pod11111111-2222-3333-4444-555555555555/{ID}\n"


@pytest.fixture
def tree(tmp_path: Path) -> ProcTree:
    tree = ProcTree(tmp_path / "proc")
    tree.network("host", [("0.0.0.0", 8000, 80), ("127.0.0.1", 9440, 94)], ["10.0.0.1"], ours=True)
    tree.network("pod", [("0.0.0.0", 8000, 81)], ["10.244.0.5"])
    tree.process(1, name="init", parent=0, network="host")
    return tree


def watch_of(tree: ProcTree, pods: PodList | None = None, **options: float) -> DiscoveryWatch:
    return DiscoveryWatch(ProcessTable(tree.root, MADE_UP), pods, **options)


def pods_of(folder: Path, server: ApiServer) -> PodList:
    return PodList(KubernetesSettings(), environ(server), folder, list_seconds=0)


async def test_an_engine_is_told_once_and_again_when_its_facts_change(tree: ProcTree) -> None:
    tree.process(10, cmdline=line("alpha-server"), network="host", sockets=[80])
    watch = watch_of(tree)
    await watch.discovery.step()
    await watch.discovery.step()
    assert watch.calls == ["127.0.0.1:8000"]
    tree.process(11, parent=10)
    await watch.discovery.step()
    assert watch.calls == ["127.0.0.1:8000"] * 2
    assert watch.targets["127.0.0.1:8000"].pids == (10, 11)


async def test_an_engine_that_ends_loses_its_address_at_once_and_comes_back_or_is_forgotten(tree: ProcTree) -> None:
    tree.process(10, cmdline=line("alpha-server"), network="host", sockets=[80])
    watch = watch_of(tree)
    await watch.discovery.step()
    tree.process(10, name="nginx", network="host", sockets=[80], start_ticks=9000)  # its port is another's now
    await watch.discovery.step()
    await watch.discovery.step()
    ended = watch.targets["127.0.0.1:8000"]
    assert (ended.url, ended.pids, ended.unreachable) == ("", (10,), "its process has ended")
    tree.process(10, name="nginx", start_ticks=9000)
    tree.process(20, cmdline=line("alpha-server"), network="host", sockets=[80])
    await watch.discovery.step()
    assert watch.targets["127.0.0.1:8000"].pids == (20,)
    assert watch.calls == ["127.0.0.1:8000"] * 3


async def test_an_engine_that_stays_away_is_gone(tree: ProcTree) -> None:
    tree.process(10, cmdline=line("alpha-server"), network="host", sockets=[80])
    watch = watch_of(tree, forget_seconds=0)
    await watch.discovery.step()
    tree.process(10, start_ticks=9000)
    await watch.discovery.step()
    assert watch.calls == ["127.0.0.1:8000", "-127.0.0.1:8000"]


async def test_an_engine_that_loads_its_model_is_known_before_it_can_be_asked(tree: ProcTree) -> None:
    tree.network("host", [], ["10.0.0.1"])
    tree.process(10, cmdline=line("alpha-server"), network="host")
    watch = watch_of(tree)
    await watch.discovery.step()
    loading = watch.targets["127.0.0.1:8000"]
    assert (loading.url, loading.pids) == ("", (10,))
    assert "does not listen yet" in loading.unreachable
    tree.network("host", [("0.0.0.0", 8000, 80)], ["10.0.0.1"])
    tree.process(10, cmdline=line("alpha-server"), network="host", sockets=[80])
    await watch.discovery.step()
    assert watch.targets["127.0.0.1:8000"].url == "http://127.0.0.1:8000"


@pytest.mark.parametrize("place", ["127.0.0.1:8000", "10.0.0.1:8000", "localhost:8000"])
async def test_what_is_configured_is_not_found_again(tree: ProcTree, place: str) -> None:
    tree.process(10, cmdline=line("alpha-server"), network="host", sockets=[80])
    watch = watch_of(tree)
    watch.taken = [place, "other:1", "127.0.0.1:8001"]
    await watch.discovery.step()
    assert watch.targets == {}
    watch.taken = []
    await watch.discovery.step()
    assert list(watch.targets) == ["127.0.0.1:8000"]
    watch.taken = ["127.0.0.1:8000"]
    await watch.discovery.step()
    assert watch.targets == {}


async def test_what_is_configured_at_any_of_its_ports_is_not_found_again(tree: ProcTree) -> None:
    tree.network("host", [("0.0.0.0", 4321, 81), ("127.0.0.1", 4322, 82)], ["10.0.0.1"])
    tree.process(10, cmdline=line("alpha-server"), network="host", sockets=[81, 82])
    assert len(await found_when_taken(tree, [])) == 1
    assert await found_when_taken(tree, ["127.0.0.1:4321"]) == {}


async def found_when_taken(tree: ProcTree, taken: list[str]) -> dict[str, EngineTarget]:
    watch = watch_of(tree)
    watch.taken = taken
    await watch.discovery.step()
    return watch.targets


async def test_our_own_ports_are_no_engines(tree: ProcTree) -> None:
    tree.process(10, cmdline=line("alpha-server", "--port", "9440"), network="host", sockets=[94])
    watch = watch_of(tree)
    await watch.discovery.step()
    assert watch.targets == {}


async def test_strangers_on_gpus_are_named_without_their_command_line(tree: ProcTree) -> None:
    tree.process(10, cmdline=line("alpha-server"), network="host", sockets=[80])
    tree.process(20, cmdline=line("python", "train.py", "--api-key", "secret"))
    watch = watch_of(tree)
    watch.on_gpus = [10, 20]
    await watch.discovery.step()
    assert list(watch.discovery.refused) == ["process 20 (python3)"]
    assert "engines.targets" in watch.discovery.refused["process 20 (python3)"]
    assert "secret" not in str(watch.discovery.refused)


async def test_process_and_pod_are_one_engine_and_the_pod_names_it(tree: ProcTree, tmp_path: Path) -> None:
    tree.process(10, IN_POD, cmdline=line("alpha-server"), network="pod", sockets=[81])
    async with api_server(tmp_path) as server:
        server.refuse = 500
        watch = watch_of(tree, pods_of(tmp_path, server))
        await watch.discovery.step()
        assert list(watch.targets) == ["10.244.0.5:8000"]
        server.refuse, server.pods = (
            0,
            [pod("a", container(container_id=ID)), pod("b", container(), address="10.244.0.6")],
        )
        await watch.discovery.step()
        assert set(watch.targets) == {"serving/a", "serving/b"}
        assert watch.calls == ["10.244.0.5:8000", "serving/a", "serving/b", "-10.244.0.5:8000"]
        assert watch.targets["serving/a"].url == "http://10.244.0.5:8000"
        assert watch.targets["serving/b"].found_by == "kubernetes"
        # A pod that was deleted is gone at once; one whose process crashed is still that engine.
        server.pods.pop()
        tree.process(10, start_ticks=9000)
        await watch.discovery.step()
        assert list(watch.targets) == ["serving/a"]
        assert watch.targets["serving/a"].found_by == "kubernetes"


async def test_a_configured_engine_in_a_pod_is_not_found_by_its_pod_either(tree: ProcTree, tmp_path: Path) -> None:
    tree.process(10, IN_POD, cmdline=line("alpha-server"), network="pod", sockets=[81])
    async with api_server(tmp_path) as server:
        server.pods = [pod("a", container(container_id=ID))]
        watch = watch_of(tree, pods_of(tmp_path, server))
        watch.taken = ["10.244.0.5:8000"]
        await watch.discovery.step()
        assert watch.targets == {}


async def test_without_kubernetes_a_feature_says_so(tree: ProcTree, tmp_path: Path) -> None:
    watch = watch_of(tree, PodList(KubernetesSettings(), {}, tmp_path))
    await watch.discovery.step()
    shown = {one.name: one for one in watch.discovery.features()}
    assert set(shown) == {"engine_processes", "engine_sockets", "kubernetes_pods"}
    assert "Outside of Kubernetes nothing is missing" in shown["kubernetes_pods"].reason


async def test_fifty_engines_at_once(tree: ProcTree) -> None:
    tree.network("host", [("127.0.0.1", 10_000 + at, 500 + at) for at in range(50)])
    for at in range(50):
        words = ("alpha-server", "--port", str(10_000 + at))
        tree.process(100 + at, cmdline=line(*words), network="host", sockets=[500 + at])
    watch = watch_of(tree)
    await watch.discovery.step()
    assert {one.url for one in watch.targets.values()} == {f"http://127.0.0.1:{10_000 + at}" for at in range(50)}


async def test_while_the_api_server_is_away_names_hold_and_addresses_of_pods_alone_do_not(
    tree: ProcTree, tmp_path: Path
) -> None:
    tree.process(10, IN_POD, cmdline=line("alpha-server"), network="pod", sockets=[81])
    async with api_server(tmp_path) as server:
        server.pods = [pod("a", container(container_id=ID)), pod("b", container(), address="10.244.0.6")]
        pods = PodList(KubernetesSettings(), environ(server), tmp_path, list_seconds=0, keep_seconds=0)
        watch = watch_of(tree, pods)
        await watch.discovery.step()
        server.refuse = 500
        await watch.discovery.step()
        assert set(watch.targets) == {"serving/a", "serving/b"}
        assert watch.targets["serving/a"].url == "http://10.244.0.5:8000"
        assert watch.targets["serving/b"].url == ""
        assert "may be another pod's" in watch.targets["serving/b"].unreachable


async def test_a_pod_that_is_new_is_asked_for_at_once(tree: ProcTree, tmp_path: Path) -> None:
    tree.process(10, IN_POD, cmdline=line("alpha-server"), network="pod", sockets=[81])
    async with api_server(tmp_path) as server:
        server.pods = [pod("a", container(container_id=ID), uid="11111111-2222-3333-4444-555555555555")]
        watch = watch_of(tree, pods_of(tmp_path, server))
        await watch.discovery.step()
        assert len(server.asked) == 1
        server.pods[0]["metadata"]["uid"] = "of-another"
        await watch.discovery.step()
        assert len(server.asked) == 3


def test_discovery_has_no_means_to_ask_an_engine() -> None:
    """It imports no HTTP client: only the API server's client does."""
    room = Path(agent.collect.discovery.__file__).parent
    ports_of = room.parent / "engines" / "ports_of.py"
    for file in (ports_of, *room.glob("*.py"), *(room / "processes").glob("*.py")):
        imported = {
            name.partition(".")[0]
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names])
        }
        assert not imported & {"aiohttp", "urllib", "http", "requests", "httpx"}, file
