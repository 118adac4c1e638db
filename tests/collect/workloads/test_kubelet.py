"""The client against a real gRPC server on a unix socket, in each way a kubelet may behave."""

import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.collect.workloads.kubelet import Kubelet, KubeletAway
from tests.support.kubelet import allocatable, claim, kubelet, pod

GPU = "GPU-00000000-0000-0000-0000-00000000000{}"


@pytest.fixture
def place() -> Iterator[Path]:
    """A short path, since a socket's name may not be long."""
    with tempfile.TemporaryDirectory(prefix="er") as folder:
        yield Path(folder) / "kubelet.sock"


def test_both_answers(place: Path) -> None:
    with kubelet(place) as fake:
        fake.pods = [
            pod("ml", "llama-0", "server", {"nvidia.com/gpu": [GPU.format(1), GPU.format(2)]}),
            pod("ml", "dra-0", "server", {}, [claim("one-gpu", "ml", "gpu-3")]),
            pod("kube-system", "proxy", "proxy", {}),
        ]
        fake.allocatable = allocatable({"nvidia.com/gpu": [GPU.format(n) for n in range(4)], "example.com/nic": ["a"]})
        answer = Kubelet((place.with_name("none.sock"), place), 5).ask()
    assert [(one.namespace, one.pod, one.container) for one in answer.given] == [
        ("ml", "llama-0", "server"),
        ("ml", "dra-0", "server"),
    ]
    assert [device for one in answer.given[0].devices for device in one.ids] == [GPU.format(1), GPU.format(2)]
    assert answer.given[1].claimed[0].device == "gpu-3"
    assert answer.allocatable is not None
    assert len(answer.allocatable) == 5
    assert fake.asked == ["List", "GetAllocatableResources"]


def test_a_kubelet_that_does_not_tell_what_is_allocatable(place: Path) -> None:
    with kubelet(place, "list_only") as fake:
        fake.pods = [pod("ml", "llama-0", "server", {"nvidia.com/gpu": [GPU.format(1)]})]
        answer = Kubelet((place,), 5).ask()
    assert len(answer.given) == 1
    assert answer.allocatable is None


def test_an_answer_beyond_grpcs_usual_limit(place: Path) -> None:
    with kubelet(place) as fake:
        ids = [f"{GPU.format(1)}::{n}" for n in range(1200)]
        fake.pods = [pod("ml", f"pod-{n}", "server", {"nvidia.com/gpu": ids}) for n in range(100)]
        size = sum(one.ByteSize() for one in fake.pods)
        assert size > 4 * 2**20
        answer = Kubelet((place,), 20).ask()
    assert len(answer.given) == 100


@pytest.mark.parametrize(
    ("mode", "reason"),
    [
        ("error", "it answered with an error"),
        ("unimplemented", "has no service"),
        ("garbage", "could not be read"),
    ],
)
def test_bad_answers(place: Path, mode: str, reason: str) -> None:
    with kubelet(place, mode) as _, pytest.raises(KubeletAway, match=reason):  # type: ignore[arg-type]
        Kubelet((place,), 5).ask()


def test_no_answer_in_time(place: Path) -> None:
    with kubelet(place, "stall"), pytest.raises(KubeletAway, match="did not answer in time"):
        Kubelet((place,), 0.2).ask()


def test_stop_ends_a_question_under_way(place: Path) -> None:
    with kubelet(place, "stall") as fake:
        client = Kubelet((place,), 60)
        heard: list[KubeletAway] = []

        def ask() -> None:
            try:
                client.ask()
            except KubeletAway as error:
                heard.append(error)

        asking = threading.Thread(target=ask)
        asking.start()
        assert fake.stalled.wait(10)
        client.stop()
        asking.join(10)
        assert not asking.is_alive()
        assert [str(error) for error in heard] == ["the agent is stopping"]
        with pytest.raises(KubeletAway, match="stopping"):
            client.ask()


def test_no_socket_and_no_listener(place: Path) -> None:
    client = Kubelet((place, Path("/dev/null/kubelet.sock")), 5)
    with pytest.raises(KubeletAway, match="there is no socket"):
        client.ask()
    with socket.socket(socket.AF_UNIX) as left_over:
        left_over.bind(str(place))
    with pytest.raises(KubeletAway, match="nothing listens"):
        client.ask()
    with pytest.raises(KubeletAway, match="nothing listens"):
        Kubelet((Path("/tmp") / ("x" * 200),), 5).ask()


def test_a_listener_that_is_no_grpc_server(place: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(place))
        server.listen()
        answering = threading.Thread(target=_answer_http, args=(server,))
        answering.start()
        with pytest.raises(KubeletAway):
            Kubelet((place,), 1).ask()
        server.shutdown(socket.SHUT_RDWR)
        answering.join(10)


def _answer_http(server: socket.socket) -> None:
    while True:
        try:
            connection, _ = server.accept()
        except OSError:
            return
        with connection:
            try:
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            except OSError:
                continue


@pytest.mark.skipif(os.geteuid() != 0, reason="needs another user to be refused as")
def test_a_socket_that_may_not_be_opened(place: Path) -> None:
    place.parent.chmod(0o755)
    with kubelet(place):
        place.chmod(stat.S_IRUSR)
        code = (
            "import os, sys; os.setgroups([]); os.setuid(65534)\n"
            "from pathlib import Path\n"
            "from agent.collect.workloads.kubelet import Kubelet, KubeletAway\n"
            "try: Kubelet((Path(sys.argv[1]),), 5).ask()\n"
            "except KubeletAway as error: print(error, 'grpc' in sys.modules)\n"
        )
        imported_first = "import agent.collect.workloads.kubelet\n"  # the checkout may be closed to that user
        done = subprocess.run(
            [sys.executable, "-c", imported_first + code, str(place)], capture_output=True, text=True, check=False
        )
    assert done.stdout == "its socket may not be opened: run as root False\n", done.stderr
