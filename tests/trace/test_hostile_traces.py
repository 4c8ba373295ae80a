"""Traces that ask for more than a run can have, or hold what no run writes: refused in one line, or shown at once."""

import json
import time
import tracemalloc
from importlib.util import find_spec

import pytest

from bench.studies.trace_picture import figure_of
from mlx_diffucoder.errors import TraceError
from mlx_diffucoder.plotting import plotter
from mlx_diffucoder.trace.animation import animation_of
from mlx_diffucoder.trace.comparison import agreement, numbers
from mlx_diffucoder.trace.page import page_of
from mlx_diffucoder.trace.reader import LARGEST, read_trace

ABSURD = {"mask": 3, "pad": 2, "ends": [1], "pieces": {"5": "a", "6": " b"}, "version": "0", "model": "m", "tokenizer": "t"}
FRAME = {"prompt": 0, "leads": [], "tails": []}


def head(**changes):
    return {"diffucode_trace": 1, **ABSURD, "config": {}, "canvas": [5, -8], "start": 1, **changes}


def rows_head(**changes):
    return {"diffucode_trace": 2, **ABSURD, "config": {}, "texts": [[5], []], **changes}


def step(number=0, at=(1,), **changes):
    counts = {"step": number, "seconds": number / 10, "nfe": number + 1, "positions": 9, "window": [0, 9]}
    return {**counts, "at": list(at), "tokens": [6] * len(at), "scores": [0.5] * len(at), **changes}


def written(tmp_path, rows):
    (path := tmp_path / "run.jsonl").write_text("".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows))
    assert path.stat().st_size < 300_000
    return path


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([head(canvas=[5, -LARGEST, -1])], "line 1: damaged (a canvas cannot have so many masks)"),
        (
            [rows_head(), {"row": 1, "seconds": 0, "lengths": [LARGEST + 1]}],
            "line 2: damaged (a canvas cannot have such a length)",
        ),
        (
            [rows_head(), *({"row": n, "seconds": 0, "lengths": [LARGEST]} for n in range(1, 200))],
            "line 129: damaged (the can",
        ),
        ([head(pieces={"5": "x" * 2000})], "line 1: damaged (a token cannot have more than 1024 bytes)"),
        ([head(), step(seconds=float("nan"))], "line 2: damaged (its seconds are no time)"),
        ([head(), step(seconds=float("inf"))], "line 2: damaged (its seconds are no time)"),
        ([head(), step(seconds=-1)], "line 2: damaged (its seconds are no time)"),
        ([head(), {"end": "done", "seconds": 1e300}], "line 2: damaged (its seconds are no time)"),
        ([head(), step(3), step(1, [2])], "line 3: damaged (its time is before that of the step before it)"),
        ([head(), step(nfe=10**300)], "line 2: damaged (a number is not a count)"),
        ([head(), step(positions=-1)], "line 2: damaged (a number is not a count)"),
        ([head(), step(scores=[1e300])], "line 2: damaged (a score is too large)"),
        ([rows_head(texts=[], frame=FRAME)], "line 1: damaged (its texts do not fit together)"),
        ([rows_head(texts=[[5]], frame=FRAME)], "line 1: damaged (its texts do not fit together)"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_no_run_writes_is_refused_before_memory_is_taken_for_it(tmp_path, rows, said):
    path = written(tmp_path, rows)
    tracemalloc.start()
    with pytest.raises(TraceError) as error:
        read_trace(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200e6
    assert f"{path}, {said}" in str(error.value)


LONG = [5] * 45_000
NAMES = ("{{data}}", "{{title}}", "n" * 5000, "mod\ud800el", "$\\frac{$", "[red]x[/nope]", "\x1b[31m\x00\u202e", "a\nb\r\nc")
LARGE = {
    "wide": [head(canvas=[5, -LARGEST]), *(step(n, [n * 140 + 1]) for n in range(900))],
    "text": [head(canvas=[*LONG, -8], start=len(LONG), pieces={"5": "x" * 1024, "6": "b"}), step(0, [len(LONG) + 1])],
    "prefill": [head(canvas=[*LONG, -8], start=len(LONG), config={"prefill": "a" * 44_999 + "b"}), step(0, [len(LONG) + 1])],
    "until": [
        head(canvas=[5, -9000], config={"until": ["q"]}, pieces={"5": "a", "6": "b", "7": "q"}),
        step(0, range(1, 9001), tokens=[7] + [6] * 8999),
    ],
    "steps": [head(canvas=[5, -1200]), *(step(n, [n + 1]) for n in range(1200))],
    "nothing": [head(canvas=[], start=0)],
    "no steps": [head()],
    "no scores": [head(), step(0, [1, 2, 3], scores=[float("nan"), float("inf"), None])],
    "surrogates": [head(pieces={"5": "\ud800", "6": "\udc00"}, config={"until": ["\ud800"], "prefill": "\udfff"}), step()],
    **{f"model {name[:9]!r}": [head(model=name), step()] for name in NAMES},
}


@pytest.mark.parametrize("name", LARGE)
def test_what_a_run_can_write_is_shown_in_seconds(tmp_path, name):
    trace = read_trace(written(tmp_path, LARGE[name]))
    pyplot = plotter() if find_spec("matplotlib") else None
    start = time.thread_time()
    assert agreement(trace, trace)["same_text"]
    assert numbers(trace)["steps"] == len(trace.records)
    page = page_of(trace)
    assert "{{" not in page or "{{" in trace.header["model"]
    data = json.loads(page.partition('type="application/json">')[2].partition("</script>")[0])
    assert data["model"] == trace.header["model"].encode("utf-8", "replace").decode()
    if pyplot:
        pyplot.close(figure_of(pyplot, trace))
    if name == "wide":
        with pytest.raises(TraceError, match="an animation shows at most"):
            animation_of(trace)
    elif len(trace.final) < 10_000:
        animation_of(trace).encode()
    assert time.thread_time() - start < 5
