"""What Triton's command lines say."""

import pytest

from agent.engines.contract import Process, Recognised
from agent.engines.triton_process import recognise


def of(command: str, **environ: str) -> Recognised | None:
    return recognise(Process(pid=1, argv=tuple(command.split()), environ=environ))


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("tritonserver --model-repository=/models", Recognised()),
        (
            "/opt/tritonserver/bin/tritonserver --http-port 8100 --metrics-port=8102",
            Recognised(port=8100, metrics_port=8102),
        ),
        ("tritonserver --allow-http=false --metrics-port 9", Recognised(port=0, metrics_port=9)),
        ("python3 launch_triton_server.py --model_repo x", None),
        ("mpirun -n 1 tritonserver", None),
        ("", None),
    ],
)
def test_recognised(command: str, expected: Recognised | None) -> None:
    assert of(command) == expected


def test_only_the_first_rank_of_a_job_answers() -> None:
    assert of("tritonserver", OMPI_COMM_WORLD_RANK="0") == Recognised()
    assert of("tritonserver", OMPI_COMM_WORLD_RANK="1") == Recognised(part="worker")
