import pytest

from agent.core.cost.constants import MOST_MODELS, WorkConstants, gpus_of
from agent.core.cost.fit import FEWEST
from agent.core.cost.live import Live
from agent.core.cost.shapes import GpuPower, ModelShape
from agent.core.cost.slots import Timeline
from agent.core.requests import Usage
from tests.support.money import MODEL, engine, gpus

NS = 1_000_000_000
POWER = GpuPower(1e15, 1e12)


def shape(parameters: float = 1e9, source: str = "config", **fields: float) -> ModelShape:
    return ModelShape(active_parameters=parameters, source=source, kv_bytes_per_token=1000.0, **fields)  # type: ignore[arg-type]


def known(*configured: tuple[str, ModelShape], fit: bool = True) -> WorkConstants:
    found = WorkConstants(configured, [("gpu", POWER)], fit=fit)
    found.tell_gpus("e", [("gpu", 1.0)])
    return found


def prefill_of(found: WorkConstants, model: str = "m", engine_name: str = "e") -> float | None:
    constants = found.constants_of(engine_name, model)
    return None if constants is None else constants.prefill_ns


def test_the_configuration_comes_first_then_the_engine_then_the_files() -> None:
    found = known(("m*", shape(1e9)))
    found.tell_shapes("e", "engine", {"m": shape(2e9, "engine"), "x": shape(3e9, "engine")})
    found.tell_shapes("e", "model_folder", {"": shape(4e9, "model_folder")})
    assert [prefill_of(found, model) for model in ("m", "x", "y")] == pytest.approx([4000, 12000, 16000])
    found.tell_shapes("e", "model_folder", {})
    assert prefill_of(found, "y") is None


def test_an_engine_with_one_shape_has_it_under_every_name() -> None:
    found = known()
    found.tell_shapes("e", "engine", {"base": shape(2e9, "engine")})
    assert prefill_of(found, "an-adapter") == prefill_of(found, "base") == pytest.approx(8000)
    assert prefill_of(found, "base", "other") is None


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ((None, "gpu"), "the shape of this model is not known: give it in tariff.models"),
        (("m", None), "it is not known on which GPUs this engine runs"),
        (("m", "odd"), "the peaks of odd are not known: give them in tariff.gpus"),
    ],
)
def test_an_equal_share_says_why(told: tuple[str | None, str | None], reason: str) -> None:
    model, gpu = told
    found = WorkConstants([(model, shape())] if model else (), [("gpu", POWER)])
    found.tell_gpus("e", [(gpu, 1.0)] if gpu else [])
    assert found.constants_of("e", "m") is None
    (view,) = found.views()
    assert (view.method, view.reason, view.prior) == ("equal_share", reason, None)


def test_gpus_add_up_and_are_remembered_while_unwatched() -> None:
    found = known(("m", shape()))
    found.tell_gpus("e", [("gpu", 1.0), ("gpu", 0.5)])
    assert prefill_of(found) == pytest.approx(4000 / 1.5)
    found.tell_gpus("e", [])
    assert prefill_of(found) == pytest.approx(4000 / 1.5)
    found.forget("e")
    assert (prefill_of(found), len(found.views())) == (None, 1)


def busy(started: int, model: str = "m") -> list[Live]:
    """A long answer, and a prompt each second."""
    long = Live("long", "u", "e", 0, model=model, ended_ns=1000 * NS, outcome="ok", first_token_ns=NS)
    long.usage = Usage(input_tokens=10, output_tokens=100_000)
    tokens = 1000 * (1 + started % 7)
    prompt = Live("p", "u", "e", started * NS, model=model, ended_ns=started * NS + NS // 2, outcome="ok")
    prompt.first_token_ns, prompt.usage = prompt.ended_ns, Usage(input_tokens=tokens, output_tokens=1)
    return [long, prompt]


def test_ticks_are_learnt_from_and_it_shows() -> None:
    found = known(("m", shape()))
    prior = found.constants_of("e", "m")
    for second in range(2, 2 + FEWEST):
        found.observe("e", busy(second), second * NS, (second + 1) * NS)
    (view,) = found.views()
    assert (view.method, view.observations) == ("fitted", FEWEST)
    assert view.fitted is not None
    assert view.prior is not None
    assert prior is not None
    assert view.prior.prefill_ns == prior.prefill_ns
    constants = found.constants_of("e", "m")
    assert constants is not None
    assert (constants.source, constants.prefill_ns) == ("fitted", view.fitted.prefill_ns)
    found.tell_gpus("e", [("gpu", 1.0), ("gpu", 1.0)])  # another prior: all is learnt anew
    found.constants_of("e", "m")
    assert found.views()[0].observations == 0


@pytest.mark.parametrize("reason", ["switched off", "bypassed", "two models", "short"])
def test_ticks_that_are_not_learnt_from(reason: str) -> None:
    found = known(("m", shape()), ("n", shape(2e9)), fit=reason != "switched off")
    for second in range(2, 40):
        lives = [*busy(second), *(busy(second, "n") if reason == "two models" else [])]
        end = second * NS + (NS // 4 if reason == "short" else NS)
        found.observe("e", lives, second * NS, end, NS if reason == "bypassed" else 0)
    assert {view.method for view in found.views()} == {"shape"}


def test_prompts_of_a_tenant_are_learnt_even_then() -> None:
    found = known(("m", shape()), fit=False)
    for second in range(100):
        long, prompt = busy(second)
        prompt.input_estimate, prompt.usage = 1000, Usage(input_tokens=100, input_cached_tokens=900)
        found.observe("e", [long, prompt], second * NS, (second + 1) * NS)
    constants = found.constants_of("e", "m")
    assert constants is not None
    assert constants.prompts is not None
    assert constants.prompts.expect(Live("x", "u", "e", 0, input_estimate=2000)) == (200, 2000)


def test_of_a_very_busy_engine_some_ticks_are_looked_at() -> None:
    found = known(("m", shape()))
    crowd = [busy(5)[0] for _ in range(1000)]
    for second in range(5, 45):
        found.observe("e", crowd, second * NS, (second + 1) * NS)
    assert found.views()[0].observations == 10


def test_names_that_clients_make_up_are_bounded() -> None:
    found = known(("m", shape()))
    for number in range(MOST_MODELS + 50):
        found.constants_of("e", f"made-up-{number}")
        assert found.constants_of("e", "m") is not None
    assert len(found.views()) == MOST_MODELS


def test_gpus_of_engines_by_their_slots() -> None:
    timeline = Timeline(3 * NS)
    timeline.see_gpus(NS, gpus(NS, 3))
    timeline.see_engine(NS, engine(NS, owns=("GPU-0", "GPU-2")).status)
    period, _ = timeline.period_at(NS)
    assert period is not None
    assert gpus_of(period, {"GPU-0": MODEL, "GPU-1": MODEL, "GPU-2": MODEL}.get) == {
        "vllm": [(MODEL, 1.0), (MODEL, 1.0)]
    }
    assert gpus_of(period, {"GPU-0": MODEL}.get) == {"vllm": [(MODEL, 1.0)]}
