"""Processes of engines and the folders of the models they were started with: what is told to the tariff, and when."""

import json
from collections.abc import Iterable
from pathlib import Path

from agent.collect.engines.model_config import model_shape
from agent.core.board import Board
from agent.core.cost.constants import WorkConstants
from agent.core.cost.shapes import ModelShape
from agent.runners.model_shapes import ModelShapes
from tests.support.money import MODEL, NS, engine

SHAPE = ModelShape(active_parameters=8e9, source="model_folder", kv_bytes_per_token=131072.0, told_by="/models/a")
LLAMA = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "torch_dtype": "bfloat16",
}


class Reader:
    """Answers for processes, and remembers which it was asked for."""

    def __init__(self, shapes: dict[int, ModelShape | None]) -> None:
        self.shapes = shapes
        self.asked: list[tuple[int, ...]] = []

    def __call__(self, pids: Iterable[int]) -> ModelShape | None:
        self.asked.append(tuple(pids))
        return self.shapes.get(self.asked[-1][0])


def board(**pids: tuple[int, ...]) -> Board:
    """Engines by name."""
    return Board("node-a", engines={name: engine(0, name=name, pids=of) for name, of in pids.items()})


async def test_each_start_of_an_engine_is_looked_at_once() -> None:
    work, seen, read = WorkConstants(), board(a=(7, 8), b=(9,), no_process=()), Reader({7: SHAPE, 9: None})
    shapes = ModelShapes(work, seen, read)
    for _ in range(3):
        await shapes.step()
    assert read.asked == [(7, 8), (9,)]
    assert work.shape_of("a", "any model of it") == SHAPE
    assert work.shape_of("b", "m") is None

    seen.engines["a"] = engine(NS, name="a", pids=(17,))  # started anew, with another model that cannot be read
    await shapes.step()
    assert read.asked[2:] == [(17,)]
    assert work.shape_of("a", "any model of it") is None

    del seen.engines["b"]
    await shapes.step()
    seen.engines["b"] = engine(2 * NS, name="b", pids=(9,))
    await shapes.step()
    assert read.asked[3:] == [(9,)], "an engine that came back is looked at again"


async def test_an_engine_that_is_down_for_a_moment_keeps_its_shape() -> None:
    work, seen, read = WorkConstants(), board(a=(7,)), Reader({7: SHAPE})
    shapes = ModelShapes(work, seen, read)
    await shapes.step()
    seen.engines["a"] = engine(NS, name="a", pids=())
    await shapes.step()
    assert work.shape_of("a", "m") == SHAPE
    assert read.asked == [(7,)]


async def test_real_files_of_a_process_become_what_a_token_costs(tmp_path: Path) -> None:
    """A made-up /proc: the process was started with a folder, whose config.json is there."""
    process = tmp_path / "7"
    folder = process / "root" / "models" / "a"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(LLAMA))
    (process / "cmdline").write_bytes(b"vllm\0serve\0/models/a\0")
    (process / "environ").write_bytes(b"")
    (process / "cwd").symlink_to("/srv")
    work = WorkConstants()
    work.tell_gpus("vllm", [(MODEL, 1.0)])
    assert work.constants_of("vllm", "llama") is None
    await ModelShapes(work, board(vllm=(7,)), lambda pids: model_shape(pids, tmp_path)).step()
    shape, constants = work.shape_of("vllm", "llama"), work.constants_of("vllm", "llama")
    assert shape is not None
    assert (shape.source, shape.told_by) == ("model_folder", "/models/a/config.json")
    assert shape.kv_bytes_per_token == 2 * 32 * 8 * 128 * 2
    assert constants is not None
    assert constants.prefill_ns > 0
