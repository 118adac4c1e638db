import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.core.engine_join import EngineJoin, complete, group_of
from agent.core.readings import EngineSnapshot, EngineStatus
from agent.core.workloads import Attribution, Workload
from tests.support.engine_groups import GROUP, scraped, status, worker
from tests.support.slots import NOWHERE, held, known, user

ENGINE = Workload(namespace="ml", pod="chat-0", container="vllm", pod_uid="uid-chat-0", container_id="c1")
BESIDE = Workload(namespace="ml", pod="chat-0", container="tools", pod_uid="uid-chat-0", container_id="c2")
OTHER_POD = Workload(namespace="ml", pod="train-0", container="main", pod_uid="uid-train-0", container_id="c3")
DOCKER = Workload(container_id="d1")
SERVICE = Workload(job="vllm.service")


def joined(attribution: Attribution | None, *statuses: EngineStatus) -> dict[str, tuple[int, ...]]:
    found = complete(statuses, attribution)
    assert found == complete(reversed(statuses), attribution)
    return {name: one.pids for name, one in found.items()}


def on(*places: Workload | None, name: str = "python3", first: int = 20, **fields: Any) -> Attribution:
    """Processes 20, 21, ... on GPU-0, GPU-1, ..."""
    users = [user(f"GPU-{n}", first + n, place, name) for n, place in enumerate(places)]
    return known(0, *users, **fields)


@pytest.mark.parametrize(
    ("engine", "process", "is_its"),
    [
        (ENGINE, ENGINE, True),
        (ENGINE, Workload(pod_uid="uid-chat-0", container_id="c1"), True),  # its names are not known
        (Workload(namespace="ml", pod="chat-0", container="vllm"), ENGINE, True),  # its ids are not
        (ENGINE, BESIDE, True),  # the only engine of the pod
        (Workload(pod_uid="uid-chat-0"), BESIDE, True),
        (DOCKER, DOCKER, True),
        (SERVICE, SERVICE, True),
        (ENGINE, OTHER_POD, False),
        (ENGINE, Workload(container_id="c9"), False),
        (DOCKER, Workload(container_id="d2"), False),
        (ENGINE, NOWHERE, False),
        (NOWHERE, NOWHERE, False),  # everything that runs on a bare machine
        (ENGINE, None, False),
        (None, ENGINE, False),
        # One name in two namespaces.
        (Workload(namespace="a", pod="p", container="c"), Workload(namespace="b", pod="p", container="c"), False),
        # A batch job or a session is no engine: training may well run in it, too.
        (Workload(job="123"), Workload(job="123"), False),
        (Workload(job="session-3.scope"), Workload(job="session-3.scope"), False),
        (Workload(job="user@1000.service"), Workload(job="user@1000.service"), False),
    ],
)
def test_a_process_and_the_only_engine(engine: Workload | None, process: Workload | None, is_its: bool) -> None:
    assert joined(on(process), status("vllm", 7, workload=engine)) == {"vllm": (7, 20) if is_its else (7,)}


@pytest.mark.parametrize(
    ("places", "process", "owner"),
    [
        ((ENGINE, BESIDE), ENGINE, "a"),  # the container decides
        ((ENGINE, BESIDE), BESIDE, "b"),
        ((ENGINE, ENGINE), ENGINE, None),
        ((ENGINE, BESIDE), replace(ENGINE, container="third", container_id="c3"), None),
        ((ENGINE, BESIDE), Workload(pod_uid="uid-chat-0"), None),
        ((ENGINE, OTHER_POD), BESIDE, "a"),
        ((DOCKER, DOCKER), DOCKER, None),
    ],
)
def test_two_engines(places: tuple[Workload, ...], process: Workload, owner: str | None) -> None:
    a, b = (status(name, pid, workload=place) for name, pid, place in zip("ab", (7, 8), places, strict=True))
    expected = {"a": (7,), "b": (8,)}
    if owner is not None:
        expected[owner] = (*expected[owner], 20)
    assert joined(on(process), a, b) == expected
    # One that is down is there all the same: whose the process is cannot be told.
    assert joined(on(process), a, replace(b, state="down")) == expected


def test_an_engine_that_another_started_for_itself_has_no_processes() -> None:
    """As Ollama and its llama-server: what is on the GPUs is Ollama's."""
    outer, inner = status("ollama", 7, workload=ENGINE), status("ollama llamacpp", workload=ENGINE)
    assert joined(on(ENGINE, BESIDE), outer, inner) == {"ollama": (7, 20, 21), "ollama llamacpp": ()}
    # Of two without any process nothing is known.
    assert joined(on(ENGINE), status("a", workload=ENGINE), inner) == {"a": (), "ollama llamacpp": ()}


@pytest.mark.parametrize("name", ["ray::RayTrainWo", "torchrun", "nvidia-cuda-mps"])
def test_a_name_that_says_whose_it_is_not(name: str) -> None:
    assert joined(on(ENGINE, name=name), status("vllm", 7, workload=ENGINE)) == {"vllm": (7,)}


def test_containers_of_a_pod_that_were_each_given_devices_work_for_themselves() -> None:
    """An engine and a training job in one pod: kubelet tells them apart where nothing else does."""
    engine, process = status("vllm", 7, workload=ENGINE), user("GPU-1", 20, BESIDE)
    to_engine, to_beside = held("GPU-0", ENGINE), held("GPU-1", replace(BESIDE, pod_uid=""))
    assert joined(known(0, process, to_engine, to_beside), engine) == {"vllm": (7,)}
    assert joined(known(0, process, to_beside), engine) == {"vllm": (7, 20)}  # the server needs no GPU


def test_where_an_engine_runs_is_told_by_its_process_on_a_gpu() -> None:
    who = known(0, user("GPU-0", 8, BESIDE), user("GPU-1", 9, ENGINE), user("GPU-2", 20, BESIDE))
    found = complete([status("vllm", 7, 8)], who)["vllm"]
    assert (found.workload, found.pids) == (BESIDE, (7, 8, 9, 20))


def test_processes_that_are_hidden_say_nothing() -> None:
    who = replace(on(ENGINE), users_known=False)
    assert joined(who, status("vllm", 7, workload=ENGINE)) == {"vllm": (7,)}
    assert joined(None, status("vllm", 9, 7, workload=ENGINE)) == {"vllm": (9, 7)}


ELSEWHERE = Workload(namespace="ml", pod="chat-1", container="vllm", pod_uid="uid-chat-1", container_id="c7")


@pytest.mark.parametrize(
    ("server", "workers", "found"),
    [
        # Ray's and MPI's workers are nobody's children, and work for the server of their group.
        ({"group": GROUP}, [worker(8, 9)], {"s": (7, 8, 9), "w": ()}),
        ({"group": GROUP}, [worker(7, 8)], {"s": (7, 8), "w": ()}),
        ({"group": GROUP, "state": "starting"}, [worker(8)], {"s": (7, 8), "w": ()}),
        ({"group": GROUP}, [worker(8, group="10.0.0.2:29500")], {"s": (7,), "w": (8,)}),
        ({}, [worker(8)], {"s": (7,), "w": (8,)}),
        # While the server is down they stand for themselves, with what is known to be theirs of its tree.
        ({"group": GROUP, "state": "down"}, [worker(8)], {"s": (7,), "w": (8,)}),
        ({"group": GROUP, "state": "down"}, [worker(7, 8)], {"s": (), "w": (7, 8)}),
        # Without a group the pod tells.
        ({"workload": ENGINE}, [worker(8, group="", workload=ENGINE)], {"s": (7, 8), "w": ()}),
        ({"workload": ENGINE}, [worker(8, group="", workload=BESIDE)], {"s": (7, 8), "w": ()}),
        ({"workload": ENGINE, "group": GROUP}, [worker(8, group="", workload=ENGINE)], {"s": (7, 8), "w": ()}),
        ({"workload": ENGINE}, [worker(8, group="", workload=ELSEWHERE)], {"s": (7,), "w": (8,)}),
        ({"workload": ENGINE, "kind": "sglang"}, [worker(8, group="", workload=ENGINE)], {"s": (7,), "w": (8,)}),
        ({"group": GROUP, "kind": None}, [worker(8)], {"s": (7, 8), "w": ()}),
        ({}, [worker(8, group="")], {"s": (7,), "w": (8,)}),
    ],
)
def test_a_server_and_its_workers_on_one_node(
    server: dict[str, Any], workers: list[EngineStatus], found: dict[str, tuple[int, ...]]
) -> None:
    assert joined(None, status("s", 7, **server), *(replace(one, engine="w") for one in workers)) == found


def test_workers_of_two_servers_of_one_group_are_told_by_the_trees_only() -> None:
    """Each of several servers (one for each data-parallel rank) has its own; who asks the rest is not known."""
    servers = [status("a", 7, 8, group=GROUP), status("b", 9, group=GROUP)]
    assert joined(None, *servers, worker(8, 9, 10, name="w")) == {"a": (7, 8), "b": (9,), "w": (10,)}


def test_what_runs_in_the_container_of_a_worker_is_the_engines() -> None:
    who = on(ELSEWHERE, ENGINE, OTHER_POD)
    server, there = status("s", 7, group=GROUP, workload=ENGINE), worker(8, name="w", workload=ELSEWHERE)
    assert joined(who, there) == {"w": (8, 20)}
    assert joined(who, server, there) == {"s": (7, 8, 20, 21), "w": ()}


@pytest.mark.parametrize(
    ("found", "group"),
    [
        (worker(8), GROUP),
        (worker(8, workload=ELSEWHERE), GROUP),
        (worker(8, group="", name="w", workload=ELSEWHERE), "ml/chat-1"),
        (worker(8, group="", name="w", workload=Workload(pod_uid="u")), "u"),
        (worker(8, group="", name="w", workload=Workload(job="123")), "123"),
        (worker(8, group="", name="w", workload=Workload(container_id="d" * 64)), "d" * 12),
        (worker(8, group="", name="w"), ""),
        (status("s", 7, workload=ENGINE), ""),
    ],
)
def test_the_name_of_a_group(found: EngineStatus, group: str) -> None:
    assert group_of(found) == group
    assert complete([found], None)[found.engine].group == group


def some_node(dice: random.Random) -> tuple[list[EngineStatus], Attribution]:
    """Engines with trees of their own, workers, and processes of all kinds in few places."""
    places = [None, NOWHERE, ENGINE, BESIDE, OTHER_POD, ELSEWHERE, DOCKER, SERVICE, Workload(pod_uid="uid-chat-0")]
    statuses = []
    pids = iter(range(100, 200))
    for number in range(dice.randrange(6)):
        tree = [next(pids) for _ in range(dice.randrange(4))]
        fields: dict[str, Any] = {
            "workload": dice.choice(places),
            "group": dice.choice(("", "", GROUP, "g2")),
            "state": dice.choice(("ready", "ready", "starting", "down")),
        }
        if dice.random() < 0.4:
            statuses.append(worker(*tree, name=f"e{number}", **fields))
        else:
            statuses.append(status(f"e{number}", *tree, **fields))
    told = [pid for one in statuses for pid in one.pids]
    said: list[Any] = [user(f"GPU-{n}", dice.choice([*told, *range(20, 30)]), dice.choice(places)) for n in range(9)]
    said += [held(f"GPU-{n}", dice.choice((ENGINE, BESIDE))) for n in range(4) if dice.random() < 0.4]
    return statuses, known(0, *said)


SEEDS = st.integers(0, 2**32)


@given(SEEDS)
def test_a_process_is_of_one_engine_in_whatever_order_they_are_told(seed: int) -> None:
    dice = random.Random(seed)
    statuses, who = some_node(dice)
    found = complete(statuses, who)
    pids = [pid for one in found.values() for pid in one.pids]
    assert len(pids) == len(set(pids))
    told = {pid for one in statuses for pid in one.pids}
    assert told <= set(pids)  # none is lost
    placed = {one.pid for one in who.users if one.workload not in (None, NOWHERE)}
    assert set(pids) - told <= placed
    dice.shuffle(statuses)
    assert complete(statuses, who) == found


@given(SEEDS)
def test_somebody_who_has_nothing_to_do_with_it_changes_nothing(seed: int) -> None:
    dice = random.Random(seed)
    statuses, who = some_node(dice)
    stranger = Workload(namespace="lab", pod="nb", container="nb", pod_uid="uid-nb", container_id="c99")
    more = replace(who, users=(*who.users, user("GPU-99", 999, stranger), user("GPU-98", 998, None)))
    assert complete(statuses, more) == complete(statuses, who)
    engine = status("zzz", 997, workload=stranger, group="g9")
    with_engine = complete([*statuses, engine], who)
    assert with_engine.pop("zzz").pids == (997,)
    assert with_engine == complete(statuses, who)


def shown(*found: EngineSnapshot) -> list[tuple[str, tuple[int, ...]]]:
    return [(one.status.engine, one.status.pids) for one in found]


def test_snapshots_are_made_whole_as_they_pass() -> None:
    join = EngineJoin()
    plain = scraped(status("vllm", 7, workload=ENGINE))
    (same,) = join.on_engine(plain)
    assert same is plain
    (changed,) = join.on_attribution(on(ENGINE))
    assert changed.status.pids == (7, 20)
    assert join.on_attribution(replace(on(ENGINE), read_at_ns=5)) == ()
    (again,) = join.on_engine(scraped(status("vllm", 7, workload=ENGINE, scrape_seconds=0.5)))
    assert again.status == replace(changed.status, scrape_seconds=0.5)
    assert shown(*join.on_engine(scraped(status("a", 20, workload=ENGINE)))) == [("a", (20,)), ("vllm", (7,))]
    assert shown(*join.on_engine(scraped(status("z", 21, workload=ENGINE)))) == [("z", (21,))]
    assert shown(*join.forget("z"), *join.forget("never")) == []
    assert shown(*join.forget("a")) == [("vllm", (7, 20))]
    assert shown(*join.on_attribution(on(OTHER_POD))) == [("vllm", (7,))]


def test_a_worker_is_its_servers_from_the_moment_that_this_is_told() -> None:
    join = EngineJoin()
    assert shown(*join.on_engine(scraped(worker(8, 9, name="w")))) == [("w", (8, 9))]
    assert shown(*join.on_engine(scraped(status("s", 7, group=GROUP)))) == [("s", (7, 8, 9)), ("w", ())]
    assert shown(*join.on_engine(scraped(worker(8, 9, name="w")))) == [("w", ())]
    down = status("s", group=GROUP, state="down")
    assert shown(*join.on_engine(scraped(down))) == [("s", ()), ("w", (8, 9))]
