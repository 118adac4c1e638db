"""Cgroup files as the systems of that name write them: tests/collect/workloads/cgroups."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.core.attribution.cgroups import is_root_only, parse_cgroup, slurm_job_in_title
from agent.core.workloads import Workload

FOLDER = Path(__file__).resolve().parents[2] / "collect/workloads/cgroups"
EXPECTED: dict[str, dict[str, str]] = json.loads((FOLDER / "expected.json").read_text())


def test_each_file_has_an_expectation() -> None:
    assert {file.stem for file in FOLDER.glob("*.txt")} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_what_a_process_belongs_to(name: str) -> None:
    assert parse_cgroup((FOLDER / f"{name}.txt").read_text()) == Workload(**EXPECTED[name])


@pytest.mark.parametrize(
    "path",
    [
        "/podinfo/app",
        "/kubepods.slice/kubepods-burstable.slice",
        "/kubepods/burstable/pod0b0c8f5e",
        "/job_12/step_0",
        "/a" * 3000,
        f"/x{'1' * 65}",
    ],
)
def test_likenesses_are_not_taken_for_it(path: str) -> None:
    assert parse_cgroup(f"0::{path}\n") == Workload()


@pytest.mark.parametrize("text", ["", "\n", "nonsense", "0:", ":::"[:1]])
def test_what_is_no_cgroup_file_says_nothing(text: str) -> None:
    assert parse_cgroup(text) is None
    assert not is_root_only(text)


def test_the_root_group() -> None:
    assert is_root_only("0::/\n")
    assert is_root_only("4:memory:/\n0::/\n")
    assert not is_root_only("4:memory:/docker\n0::/\n")


@pytest.mark.parametrize(
    ("title", "job"),
    [
        ("slurmstepd: [4711.batch]", "4711"),
        ("slurmstepd: [4711.extern] ", "4711"),
        ("slurmstepd: [4711_3.0]", "4711_3"),
        ("slurmstepd", ""),
        ("vim slurmstepd: [1.0]", ""),
        ("", ""),
    ],
)
def test_the_job_in_the_title_of_slurmstepd(title: str, job: str) -> None:
    assert slurm_job_in_title(title) == job


PIECES = st.sampled_from(
    [
        "0::",
        "4:memory:",
        "/",
        "\n",
        "kubepods",
        "pod",
        "slurm",
        "job_1",
        "-",
        ".scope",
        ".slice",
        ":",
        "f" * 64,
        "..",
        "_",
    ]
)


@given(st.one_of(st.text(max_size=300), st.lists(PIECES, max_size=60).map("".join)))
def test_no_text_makes_it_fail(text: str) -> None:
    parse_cgroup(text)
    is_root_only(text)
    slurm_job_in_title(text)
