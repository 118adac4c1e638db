"""Our answers beside those of Prometheus' own promtool, over random series and queries."""

import random
from pathlib import Path

import pytest

from agent.core.metrics.promql.catalogue import AGGREGATIONS, FUNCTIONS
from tests.support.components import need
from tests.support.prometheus_oracle import Grammar, alike, make_world, ours, stricter, theirs

QUESTIONS = 100


def judge(seed: int, folder: Path) -> tuple[set[str], int]:
    rng = random.Random(seed)
    world, grammar = make_world(rng), Grammar(rng)
    questions = [grammar.question() for _ in range(QUESTIONS)]
    answers = theirs(need("promtool"), folder, world, questions)
    wrong = [
        f"seed {seed}: {question.expr} at {question.at_ms}\n  ours   {found}\n  theirs {wanted}"
        for question, wanted in zip(questions, answers, strict=True)
        if not alike(found := ours(world, question), wanted) and not stricter(question, found)
    ]
    assert not wrong, "\n".join(wrong)
    return grammar.used, sum(1 for answer in answers if answer and answer != "error")


@pytest.mark.component("promtool")
def test_answers_are_those_of_prometheus(tmp_path: Path) -> None:
    found = [judge(seed, tmp_path) for seed in range(25)]
    used = set().union(*(names for names, _ in found))
    assert sum(count for _, count in found) > 25 * QUESTIONS * 0.4, "most random queries answer nothing: no test at all"
    assert set(FUNCTIONS) | AGGREGATIONS <= used


@pytest.mark.long
@pytest.mark.component("promtool")
@pytest.mark.parametrize("seed", range(100, 600))
def test_answers_are_those_of_prometheus_at_length(seed: int, tmp_path: Path) -> None:
    judge(seed, tmp_path)
