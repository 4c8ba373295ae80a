"""Traces of canvases that change their length."""

import json
import re
import xml.etree.ElementTree as ET
from dataclasses import fields

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_diffucoder import GenerationConfig, fill, load
from mlx_diffucoder.config import HOLES
from mlx_diffucoder.decoding.result import Step
from mlx_diffucoder.errors import TraceError
from mlx_diffucoder.generation import canvas_of, stream_batch, stream_traced
from mlx_diffucoder.trace.animation import animation_of
from mlx_diffucoder.trace.comparison import agreement, numbers
from mlx_diffucoder.trace.page import page_of
from mlx_diffucoder.trace.reader import read_trace
from mlx_diffucoder.trace.writer import TraceWriter

from ..conftest import DATA
from .test_animation import SVG, trace_of
from .test_hostile_traces import head, step, written

CONFIG = {"max_tokens": 20, "expand_budget": 12, "temperature": 0.4, "alg": "maskgit_plus"}
PROMPT = mx.load(str(DATA / "dreamon-a" / "expected.safetensors"))["generate.maskgit_plus-from8.prompt"][0].tolist()


@pytest.fixture(scope="module")
def dreamon():
    return load(DATA / "dreamon-a")


def recorded(dreamon, path, seed):
    """The steps of an answer whose run inserts and deletes, and its trace."""
    steps = list(stream_traced(*dreamon, PROMPT, GenerationConfig(**CONFIG, seed=seed), (path, "dreamon")))
    return steps, read_trace(path)


def test_the_steps_of_a_canvas_that_changes_its_length_come_back(dreamon, tmp_path):
    kinds = set()
    for seed in range(4):
        steps, trace = recorded(dreamon, tmp_path / "run.jsonl", seed)
        for one, again in zip(steps, trace.steps(), strict=True):
            kinds |= {name for name in ("deleted", "expanded") if len(getattr(one, name))}
            for field in fields(Step):
                assert np.allclose(getattr(one, field.name), getattr(again, field.name), rtol=1e-5, atol=0), field.name
        assert trace.final.tolist() == trace.on_final.final.tolist() == steps[-1].tokens.tolist()
        assert numbers(trace)["inserted"] == sum(len(one.expanded) for one in steps)
        assert numbers(trace)["deleted"] == sum(len(one.deleted) for one in steps)
        assert int(trace.useful.sum()) == sum(len(part.committed) for part in trace.useful_steps())
    assert kinds == {"deleted", "expanded"}


def test_holes_come_back_with_the_text_around_them(dreamon, tmp_path):
    config = GenerationConfig(**{**HOLES, **CONFIG, "seed": 1})
    with TraceWriter(tmp_path / "run.jsonl", dreamon[1], config, "dreamon") as writer:
        filled = fill(*dreamon, ["def f(x):\n    ", None, "\n    y = ", None, "\n"], config, trace=writer)
    trace = read_trace(tmp_path / "run.jsonl")
    assert trace.text == f"def f(x):\n    {filled.holes[0]}\n    y = {filled.holes[1]}\n"
    assert trace.stats.useful_tokens == filled.useful_tokens
    assert [stop - start for start, stop in trace.holes] == filled.lengths


def test_a_canvas_that_is_filled_before_others_has_no_more_lines(dreamon, tmp_path):
    config, path = GenerationConfig(**CONFIG, seed=2), tmp_path / "run.jsonl"
    prompts = [PROMPT] * 3
    with TraceWriter(path, dreamon[1], config, "dreamon") as writer:
        *_, last = writer.batch([canvas_of(dreamon[1], one, config) for one in prompts], stream_batch(*dreamon, prompts, config))
    for row, one in enumerate(last, start=1):
        trace = read_trace(path, row)
        assert trace.final.tolist() == one.tokens.tolist()
        assert len(trace.records) <= trace.records[-1].nfe


# Two masks; the first becomes two, the last leaves, the others are filled.
RESIZED = [({}, [], {}, {}, [], [2]), ({2: 10}, [], {}, {}, [4], []), ({3: 16}, [], {})]


def dots_of(svg):
    """The names of the animations of dots."""
    return [name for name, dots in re.findall(r'<g class="t[ h]*" style="animation-name:(t[0-9]+)">(<circle)', svg) if dots]


def test_a_position_is_followed_to_its_last_place():
    twice = trace_of(2, [({}, [], {}, {}, [], [2]), ({}, [], {}, {}, [], [3]), ({}, [], {}, {}, [2], [])])
    assert [one.inserted.tolist() for one in twice.resizings] == [[2], [3], []]
    assert [one.before_deleted.tolist() for one in twice.resizings] == [[], [], [2]]


def test_the_animation_has_each_token_at_its_last_place():
    trace = trace_of(2, RESIZED, lengths=[2])
    svg = animation_of(trace)
    root = ET.fromstring(svg)
    dots = [one for one in root.iter(f"{SVG}circle") if one.get("class") == "dot"]
    assert len({one.get("cx") for one in dots}) == len(dots) == 2
    frames = [re.search(rf"@keyframes {name}{{(0%{{opacity:[01]}})", svg)[1] for name in dots_of(svg)]
    assert sorted(frames) == ["0%{opacity:0}", "0%{opacity:1}"]  # the inserted one is not there at the start
    bars = [one for one in root.iter(f"{SVG}rect") if one.get("class") == "gone"]
    assert [one.get("width") for one in bars] == ["2"]
    texts = ["".join(one.itertext()) for one in root.iter(f"{SVG}text")]
    assert "3 forwards·2 useful tokens·1 inserted, 1 deleted·0.7 per forward" in texts


def test_the_page_and_the_comparison_have_what_was_inserted_and_deleted(dreamon, tmp_path):
    (_, one), (_, other) = (recorded(dreamon, tmp_path / f"{seed}.jsonl", seed) for seed in (0, 1))
    data = json.loads(re.search(r'type="application/json">(.*?)</script>', page_of(one), re.S)[1])
    start = len(one.canvas.tokens) - len(data["tokens"])
    for record, row in zip(one.records, data["steps"], strict=True):
        assert [at + start for at in row["deleted"]] == record.deleted.tolist()
        assert [at + start for at in row["expanded"]] == record.expanded.tolist()
    assert agreement(one, one) == {
        "same_text": True,
        "same_tokens": 1.0,
        "first_difference": None,
        "order_agreement": 1.0,
        "kendall_tau": 1.0,
    }
    assert agreement(one, other)["first_difference"] is not None
    for name in (4, 5):  # another mask was deleted, or expanded
        steps = [({}, [], {}, *({}, [], [])[: name - 3], [at]) for at in (2, 3)]
        assert agreement(*(trace_of(2, [step]) for step in steps))["first_difference"] == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"deleted": [9]},
        {"deleted": [-1]},
        {"deleted": [2, 2]},
        {"expanded": [3, 2]},
        {"expanded": [2], "deleted": [2]},
        {"deleted": [1.5]},
        {"expanded": [[1]]},
        {"deleted": [8], "at": [8]},
    ],
    ids=json.dumps,
)
def test_a_change_of_length_that_cannot_be_is_refused(tmp_path, changes):
    path = written(tmp_path, [head(diffucode_trace=5), step(**{"at": [1], **changes})])
    with pytest.raises(TraceError, match="line 2: damaged"):
        read_trace(path)


def test_a_canvas_cannot_grow_beyond_what_a_canvas_has(tmp_path):
    rows = [head(diffucode_trace=5, canvas=[5, -8]), *(step(n, [], expanded=list(range(8 << n))) for n in range(15))]
    rows[1:] = [{**row, "tokens": [], "scores": []} for row in rows[1:]]
    path = tmp_path / "run.jsonl"
    path.write_text("".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows))
    with pytest.raises(TraceError, match="a canvas cannot have such a length"):
        read_trace(path)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_changes_of_length_are_shown(data):
    length, steps = 6, []
    for _ in range(data.draw(st.integers(0, 5))):
        kinds = data.draw(st.lists(st.sampled_from(["keep", "delete", "expand"]), min_size=length, max_size=length))
        deleted, expanded = ([at for at, kind in enumerate(kinds) if kind == name] for name in ("delete", "expand"))
        length += len(expanded) - len(deleted)
        at = st.integers(0, length - 1) if length else st.nothing()
        committed = data.draw(st.dictionaries(at, st.sampled_from([10, 15, 1]))) if length else {}
        steps.append((committed, data.draw(st.lists(at)) if length else [], {}, {}, deleted, expanded))
    trace = trace_of(4, steps)
    ET.fromstring(animation_of(trace))
    assert numbers(trace)["steps"] == len(steps)
    assert agreement(trace, trace)["first_difference"] is None
    assert [len(one.tokens) for one in trace.steps()] == [record.length for record in trace.records]
