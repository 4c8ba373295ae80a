"""The loop over tasks and answers."""

from dataclasses import replace

import pytest

from mlx_diffucoder import GenerationConfig, infill
from mlx_diffucoder.config import HOLES
from mlx_diffucoder.errors import ConfigError, TaskError
from mlx_diffucoder.evaluation import Traces, evaluate
from mlx_diffucoder.evaluation import run as loop
from mlx_diffucoder.evaluation.run import seed_of
from mlx_diffucoder.generation import Answer
from mlx_diffucoder.tasks import read_tasks
from mlx_diffucoder.trace.reader import read_trace

from .programs import FUNCTIONS, PLAIN, RIGHT, SHORT, TESTS


def numbers(results):
    """What two runs must share: all but times and memory."""
    return [replace(result, seconds=0.0, peak_memory_bytes=0) for result in results]


def test_pocket_passes_a_task(pocket):
    model, tokenizer = pocket
    (answer,) = evaluate(model, tokenizer, read_tasks(FUNCTIONS)[:1], GenerationConfig.preset("balanced", max_tokens=64))
    assert answer.passed, answer
    assert answer.useful_tokens > 10
    assert answer.seconds > 0


def test_an_evaluation_goes_on_after_hostile_answers(dream_b, monkeypatch):
    model, tokenizer = dream_b
    answers = iter([RIGHT, "while True: pass", "import os\nos._exit(0)", "", "raise MemoryError", "def f(x): return 0", RIGHT])

    class Scripted(Answer):
        @classmethod
        def of(cls, tokenizer, step, start, config):
            return cls(text=next(answers), useful_tokens=2)

    monkeypatch.setattr(loop, "Answer", Scripted)
    tasks = [replace(PLAIN, id=str(i), tests=TESTS) for i in range(7)]
    results = list(evaluate(model, tokenizer, tasks, GenerationConfig(max_tokens=2), limits=SHORT))
    assert [one.kind for one in results] == ["passed", "timeout", "exit", "no_code", "memory", "wrong", "passed"]
    assert [one.task_id for one in results] == [task.id for task in tasks]
    assert max(one.seconds for one in results) < SHORT.timeout


def test_a_run_that_goes_on_gives_what_an_uninterrupted_one_gives(dream_b):
    model, tokenizer = dream_b
    tasks = read_tasks(FUNCTIONS)[:3]
    config = GenerationConfig(max_tokens=4, temperature=1.5, seed=5)
    whole = list(evaluate(model, tokenizer, tasks, config, samples=2))
    assert len({(one.task_id, one.sample) for one in whole}) == 6
    assert len({one.answer for one in whole}) > 3
    done = {(one.task_id, one.sample) for one in whole[:3]}
    rest = list(evaluate(model, tokenizer, tasks, config, samples=2, done=done))
    assert numbers(whole[:3] + rest) == numbers(whole)


def test_every_answer_has_a_seed_of_its_own():
    seeds = {seed_of(seed, task, sample) for seed in range(5) for task in ("a", "b") for sample in range(5)}
    assert len(seeds) == 50
    assert max(seeds) < 2**64


def test_a_prompt_that_does_not_fit_is_named_before_anything_runs(dream_b):
    model, tokenizer = dream_b
    long = replace(PLAIN, id="long", where="tasks.jsonl:7", prompt="x " * 3000)
    with pytest.raises(TaskError, match=r"tasks.jsonl:7: .*tokens long"):
        evaluate(model, tokenizer, [PLAIN, long], GenerationConfig(max_tokens=4))


HOLE = replace(
    PLAIN, prompt="def total(nums):\n    result = 0\n    for x in ", suffix=":\n        result += x\n    return result\n"
)


def test_a_hole_is_filled_and_the_whole_text_is_tested(pocket, tmp_path):
    """`filled` is what infill writes there; the tests see prompt, hole and suffix."""
    config = GenerationConfig(**HOLES | {"max_tokens": 2}, seed=0)
    right = replace(HOLE, id="a/b", tests="assert total([1, 2]) == 3")
    (found,) = evaluate(*pocket, [right], config, traces=Traces(tmp_path, "pocket"))
    assert found.kind == "passed"
    assert found.answer == infill(*pocket, HOLE.prompt, HOLE.suffix, config) == "nums"
    assert found.useful_tokens > 0 < found.nfe
    assert read_trace(tmp_path / "a%2Fb-0.jsonl").text == HOLE.prompt + "nums" + HOLE.suffix


def test_a_configuration_for_answers_is_refused_for_holes(dream_b):
    with pytest.raises(ConfigError, match="prefill is for answers"):
        evaluate(*dream_b, [HOLE], GenerationConfig(prefill="x"))
