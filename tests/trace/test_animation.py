"""The animated SVG of a trace: pure functions of a trace that is made by hand."""

import math
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_diffucoder.decoding.canvas import Canvas
from mlx_diffucoder.decoding.hole_layout import HoleLayout
from mlx_diffucoder.errors import ConfigError
from mlx_diffucoder.trace.animation import LEAD, animation_of, check_animation, commits_of
from mlx_diffucoder.trace.record import Record
from mlx_diffucoder.trace.run import Trace

MASK, END, PAD = 0, 1, 2
SVG = "{http://www.w3.org/2000/svg}"
WORDS = {10: b"def", 11: b" f", 12: b"()", 13: b":", 14: b"\n    ", 15: b"return", 16: b" 1", 17: "漢".encode(), 18: b" x<&\"'>"}


def ids(values):
    return np.array(values, dtype=np.int32)


def trace_of(length, steps, pieces=WORDS, prompt=(5, 6), layout=None, texts=None, lengths=None):
    """A trace of steps `(committed, remasked, others, rejected, deleted, expanded)`: `{position: token}`, or a list of positions.

    Those of the end of a step may be left out.
    """
    special = {"mask_id": MASK, "pad_id": PAD, "end_ids": frozenset({END})}
    canvas = Canvas.around(texts or [list(prompt), []], lengths or [length], **special)
    every, at = ((*step, *({}, [], [])[len(step) - 3 :]) for step in steps), len(canvas.tokens)
    records = [
        Record(
            index=number,
            seconds=0.5 * (number + 1),
            nfe=number + 1,
            positions=length * (number + 1),
            rows=(length,),
            window=(0, length),
            committed=ids(list(committed)),
            tokens=ids(list(committed.values())),
            scores=np.zeros(len(committed), dtype=np.float32),
            remasked=ids(remasked),
            others=(ids(list(others)), ids(list(others.values()))),
            rejected=(ids(list(guesses)), ids(list(guesses.values()))),
            deleted=ids(deleted),
            expanded=ids(expanded),
            length=(at := at - len(deleted) + len(expanded)),
        )
        for number, (committed, remasked, others, guesses, deleted, expanded) in enumerate(every)
    ]
    header = {"model": "a & <b>", "config": {}}
    return Trace(Path("run.jsonl"), header, canvas, pieces, layout, records=records, end="done", seconds=3.0)


RUN = [
    ({2: 10, 5: 15}, [], {}),
    ({3: 11, 4: 13}, [5], {}),
    ({4: 12, 5: 13, 6: 14, 7: 15, 8: 16, 9: END}, [], {}),
    ({}, [], {10: PAD, 11: PAD}),
]


@pytest.fixture
def run():
    return trace_of(10, RUN)


def texts_of(svg, layer="t"):
    """The texts of the animated groups, without the line of numbers."""
    groups = [group for group in ET.fromstring(svg).iter(f"{SVG}g") if (group.get("class") or "").startswith(layer)]
    texts = ["".join(text.itertext()) for group in groups for text in group.iter(f"{SVG}text")]
    return [text for text in texts if not re.match(r"[0-9]+ forward", text)]


def test_each_commit_is_one_text(run):
    assert sorted(texts_of(animation_of(run))) == sorted(["def", "return", "f", ":", "()", ":", "return", "1", "×"])


def test_a_commit_stays_until_it_is_remasked_or_replaced(run):
    found = commits_of(run, [1.0, 2.0, 3.0, 4.0])
    assert [(one.position, one.token, one.start, one.stop, one.remasked) for one in found[:6]] == [
        (2, 10, 1.0, math.inf, False),
        (5, 15, 1.0, 2.0, True),
        (3, 11, 2.0, math.inf, False),
        (4, 13, 2.0, 3.0, False),
        (4, 12, 3.0, math.inf, False),
        (5, 13, 3.0, math.inf, False),
    ]


def test_every_mask_is_a_dot(run):
    assert animation_of(run).count("<circle") == 10


def test_a_rejected_guess_stands_in_place_of_the_dot_while_its_forward_runs():
    steps = [({2: 10}, [], {}), ({3: 11}, [], {}, {3: 15, 4: 12, 5: 14, 6: 10, 7: 10}), ({4: 12, 5: 13, 6: END}, [], {}, {2: 15})]
    trace = trace_of(6, steps)
    found = animation_of(trace)
    ghosts = [text for text in ET.fromstring(found).iter(f"{SVG}tspan") if text.get("class") == "g"]
    # Cut to its place; not after the end of the text, nor where a token is.
    assert ["".join(text.itertext()) for text in ghosts] == ["r", "()", "↵", "d"]
    (group,) = (
        one for one in ET.fromstring(found).iter(f"{SVG}g") if 'class="g"' in ET.tostring(one, "unicode") and one.get("style")
    )
    number = group.get("style").removeprefix("animation-name:")
    seconds = LEAD + 1.5 + 3.5
    start, stop = (f"{100 * (LEAD + time) / seconds:.3f}".rstrip("0").rstrip(".") for time in (0.5, 1.0))
    assert f"@keyframes {number}{{0%{{opacity:0}}{start}%{{opacity:1}}{stop}%{{opacity:0}}}}" in found
    assert found.count("<circle") == animation_of(trace_of(6, [step[:3] for step in steps])).count("<circle")


def test_it_loops_and_needs_no_script_font_or_network(run):
    svg = animation_of(run)
    assert "infinite" in svg
    assert not re.search(r"<script|@import|@font-face|url\(|<image|<a |on[a-z]+=", svg)
    assert svg.count("http") == 1  # the namespace


def test_it_follows_light_and_dark_mode_and_reduced_motion(run):
    svg = animation_of(run)
    assert "prefers-color-scheme:dark" in svg
    assert "prefers-reduced-motion:reduce" in svg


def test_the_numbers_are_those_of_the_run(run):
    lines = ["".join(text.itertext()) for text in ET.fromstring(animation_of(run)).iter(f"{SVG}text")]
    assert "0 forwards" in lines
    assert "1 forward·2 useful tokens·2.0 per forward" in lines
    assert f"4 forwards·{run.stats.useful_tokens} useful tokens·2.0 per forward" in lines


def test_the_speed_changes_the_times_and_stands_in_the_picture(run):
    assert "0.5x speed" in "".join(ET.fromstring(animation_of(run, speed=0.5)).itertext())
    slow, fast = (float(re.search(r"animation:bar ([0-9.]+)s", animation_of(run, speed=speed))[1]) for speed in (0.5, 1))
    assert slow - fast == pytest.approx(2.0)
    assert fast == pytest.approx(LEAD + 2.0 + 3.5)


def test_hostile_text_is_escaped(run):
    hostile = {**WORDS, 10: b"</text><script>alert(1)</script>\x00\x1b[31m\xff\xed\xa0\x80", 16: b"]]>&amp;"}
    svg = animation_of(trace_of(10, RUN, hostile), title='"><script>')
    root = ET.fromstring(svg)
    assert not list(root.iter(f"{SVG}script"))
    assert "</text><script>alert(1)</script>␀␛[31m" in "".join(root.itertext())


def test_lines_are_broken_at_the_width(run):
    long = {**WORDS, 10: b"x" * 50}
    for text in ET.fromstring(animation_of(trace_of(10, RUN, long), columns=20, speed=0.5)).iter(f"{SVG}tspan"):
        assert all(float(x) < 24 + 20 * 9 for x in text.get("x").split())


def test_the_same_trace_makes_the_same_bytes(run):
    assert animation_of(run) == animation_of(trace_of(10, RUN))


def test_a_run_of_one_token_a_step_is_small():
    steps = [({position: 10 + position % 9}, [], {}) for position in range(2, 66)]
    assert len(animation_of(trace_of(64, steps))) < 200_000


def test_the_text_around_holes_is_there_from_the_start():
    layout = HoleLayout(1, [" "], ["\n"])
    trace = trace_of(2, [({3: 15}, [], {}), ({4: 16}, [], {})], texts=[[5, 10, 11], [13, END]], lengths=[2], layout=layout)
    svg = animation_of(trace)
    assert texts_of(svg) == ["def", "f", ":", "return", "1"]
    rows = {"".join(text.itertext()): text[0].get("y") for text in ET.fromstring(svg).iter(f"{SVG}text")}
    assert rows["def"] == rows["1"] != rows[":"]  # the line end that the hole's tokens lack


def test_a_stopped_run_keeps_its_dots():
    svg = animation_of(trace_of(10, RUN[:1]))
    assert re.search(r'<g class="t" style="animation-name:t[0-9]+"><circle', svg)


def test_a_run_without_a_step_is_a_picture_too():
    ET.fromstring(animation_of(trace_of(4, [])))
    ET.fromstring(animation_of(trace_of(4, [], prompt=())))


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.sampled_from(list(WORDS)), st.binary(max_size=6)),
    st.lists(
        st.tuples(st.dictionaries(st.integers(2, 9), st.sampled_from(list(WORDS))), st.lists(st.integers(2, 9))), max_size=6
    ),
    st.integers(20, 40),
)
def test_any_trace_is_well_formed(pieces, steps, columns):
    trace = trace_of(8, [(committed, remasked, {}) for committed, remasked in steps], {**WORDS, **pieces})
    ET.fromstring(animation_of(trace, columns=columns))


def test_only_an_animation_is_replaced(tmp_path, run):
    path = tmp_path / "demo.svg"
    check_animation(path)
    path.write_text(animation_of(run))
    check_animation(path)
    path.write_text("<svg/>")
    for wrong, said in [
        (path, "is not an animation"),
        (tmp_path / "a.png", "end in .svg"),
        (tmp_path / "no" / "a.svg", "folder"),
    ]:
        with pytest.raises(ConfigError, match=said):
            check_animation(wrong)
