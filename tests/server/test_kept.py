"""K/V that stay between requests: fewer positions, and where nothing changed the same text."""

import pytest

from mlx_diffucoder.config import HOLES, GenerationConfig
from mlx_diffucoder.decoding.windows import window_for
from mlx_diffucoder.infilling.task import InfillTask
from mlx_diffucoder.server.kept import MARGIN, KeptTexts

from .conftest import wait_until

BEFORE = "def first(a, b):\n    return a * b\n\n\n" * 4 + "def add(a, b):\n"
AFTER = "\n\nprint(add(1, 2))\n" + "\n\ndef last(a, b):\n    return a - b\n" * 4


def asked(server, prefix, **more):
    body = {"input_prefix": prefix, "input_suffix": AFTER, "n_predict": 32, **more}
    return server.http.post("/infill", json=body).json()


def test_the_same_hole_again_gives_the_same_text_for_fewer_positions(server):
    cold = asked(server, BEFORE, cache_prompt=False)
    asked(server, BEFORE)
    warm = asked(server, BEFORE)
    assert warm["content"] == cold["content"]
    assert cold["tokens_cached"] == 0 < warm["tokens_cached"]
    assert 0 <= cold["timings"]["positions"] - warm["timings"]["positions"] - warm["tokens_cached"] < 8  # rows come in eights
    assert asked(server, BEFORE, cache_prompt=False)["timings"]["positions"] == cold["timings"]["positions"]


def test_the_next_keystroke_takes_most_of_the_text_as_it_was(server):
    asked(server, BEFORE + "    ")
    assert asked(server, BEFORE + "    re")["tokens_cached"] > 60


def test_what_llama_vim_warms_up_is_there_for_the_next_hole(server):
    extra = [{"filename": "a.py", "time": [20059, 1368], "text": "".join(f"value_{n} = {n}\n" for n in range(40))}]
    limits = {"t_max_prompt_ms": 1, "t_max_predict_ms": 1}  # llama.cpp's server has no limit for the prompt
    recorded = {"id_slot": 0, "input_suffix": "", "prompt": "", "temperature": 0.0, "samplers": [], "response_fields": [""]}
    finished = server.engine.counts.finished
    assert asked(server, "", **recorded, **limits, n_predict=0, input_extra=extra, cache_prompt=True) == {}
    wait_until(lambda: server.engine.counts.finished > finished)
    assert asked(server, "x = 1\n", input_extra=extra, input_suffix="\ny = 2\n")["tokens_cached"] > 100


@pytest.fixture
def canvas_and_window(pocket):
    model, tokenizer = pocket

    def make(prefix):
        task = InfillTask(model, tokenizer, [prefix, AFTER], [None], GenerationConfig(**HOLES), None, 512, None)
        return task.canvas([24]), window_for(task.config)

    return make


def forwarded(model, state, canvas):
    """Carry out a forward of a state; returns how many positions it took."""
    coming = state.forward(canvas.tokens)
    part = next(coming)
    try:
        coming.send(model.model(*part))
    except StopIteration as done:
        return done.value.forwarded


def test_near_the_hole_nothing_is_taken_and_a_text_that_moved_is_rotated(pocket, canvas_and_window):
    model, _ = pocket
    texts = KeptTexts(2**30)
    canvas, window = canvas_and_window(BEFORE)
    forwarded(model, texts.window(window).open(model, canvas), canvas)
    moved, _ = canvas_and_window(BEFORE + "    return")
    layers, valid = texts.find(model, moved)
    start, stop = moved.holes[0]
    assert not valid[start - MARGIN : stop + MARGIN].any() and valid[0] and valid[-1]
    assert layers[0][0].shape[2] == len(moved.tokens)
    # The first layer's keys are of the tokens and their places alone, so they are exact.
    fresh = KeptTexts(2**30).window(window).open(model, moved)
    forwarded(model, fresh, moved)
    error = abs(layers[0][0] - fresh.cache.layers[0][0]).max(axis=(0, 1, 3))
    assert max(error[index].item() for index in valid.nonzero()[0].tolist()) < 1e-3


def test_what_is_kept_is_bounded_and_the_newest_stay(pocket, canvas_and_window):
    model, _ = pocket
    canvas, window = canvas_and_window(BEFORE)
    one = KeptTexts(2**30).window(window).open(model, canvas)
    forwarded(model, one, canvas)
    texts = KeptTexts(2 * one.cache.nbytes)
    for number in range(5):
        other, _ = canvas_and_window(f"x{number} = 1\n" + BEFORE)
        forwarded(model, texts.window(window).open(model, other), other)
    assert len(texts._states) <= 3 and texts.find(model, canvas_and_window("x4 = 1\n" + BEFORE)[0])[1][0]
