"""What is written down of a run and read again, and what is said of a file that is none."""

import itertools
import json
import shutil
from dataclasses import fields

import numpy as np
import pytest

from mlx_diffucoder import GenerationConfig, fill, generate, stream_generate
from mlx_diffucoder.best_of import best_of
from mlx_diffucoder.config import HOLES
from mlx_diffucoder.decoding.canvas import Canvas
from mlx_diffucoder.decoding.result import Step
from mlx_diffucoder.errors import PromptError, TraceError
from mlx_diffucoder.trace.reader import read_trace
from mlx_diffucoder.trace.writer import TraceWriter, check_trace, traced

FILLING = GenerationConfig(**{**HOLES, "max_tokens": 4})
PROMPT = [3, 5, 7, 11, 13, 17, 19]
CONFIGS = {
    "exact": {"rule": "schedule", "window": "whole"},
    "balanced": {},
    "blocks": {"rule": "threshold:tau=0.02", "window": "blocks-dual:size=3"},
}


def recorded(loaded, path, config, prompt=PROMPT):
    model, tokenizer = loaded
    ids = {"mask_id": tokenizer.mask_id, "pad_id": tokenizer.pad_id, "end_ids": tokenizer.end_ids}
    canvas = Canvas.of(prompt, config.max_tokens, **ids)
    return traced(path, stream_generate(model, tokenizer, prompt, config), canvas, tokenizer, config, "dream")


@pytest.mark.parametrize("options", CONFIGS.values(), ids=CONFIGS)
def test_the_steps_come_back_as_they_were(dream_b, tmp_path, options):
    config = GenerationConfig(max_tokens=14, seed=4, temperature=2.0, **options)
    steps = list(recorded(dream_b, tmp_path / "run.jsonl", config))
    trace = read_trace(tmp_path / "run.jsonl")
    for one, again in zip(steps, trace.steps(), strict=True):
        for field in fields(Step):
            was, now = getattr(one, field.name), getattr(again, field.name)
            assert np.allclose(was, now, rtol=1e-5, atol=0), field.name
    assert trace.end == "done"
    assert 0 < trace.records[0].seconds <= trace.records[-1].seconds <= trace.seconds
    assert trace.canvas.tokens.tolist() == PROMPT + [dream_b[1].mask_id] * 14
    assert trace.header["config"] == json.loads(json.dumps(config.to_dict()))
    assert trace.text_of(PROMPT) == dream_b[1].decode(PROMPT)


@pytest.mark.parametrize("rows", [1, 2])
def test_rejected_guesses_come_back_and_traces_of_before_have_none(dream_b, tmp_path, rows):
    model, tokenizer = dream_b
    path, config = tmp_path / "run.jsonl", GenerationConfig(max_tokens=20, seed=4, temperature=0.5)
    if rows == 1:
        steps = list(recorded(dream_b, path, config))
    else:
        with TraceWriter(path, tokenizer, config, "dream") as writer:
            best_of(model, tokenizer, PROMPT, config, rows, writer)
        steps = list(read_trace(path).steps())
    found = [step.rejected.tolist() for step in read_trace(path).steps()]
    assert found == [step.rejected.tolist() for step in steps]
    assert any(found)
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0]["diffucode_trace"] -= 4
    for line in lines[1:]:
        line.pop("rejected", None)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    old = read_trace(path)
    assert old.text
    assert not any(len(step.rejected) for step in old.steps())


def test_a_trace_that_a_run_is_writing_is_refused_and_stays_whole(dream_b, tmp_path):
    config, path = GenerationConfig(max_tokens=6, seed=4), tmp_path / "run.jsonl"
    steps = recorded(dream_b, path, config)
    next(steps)
    with pytest.raises(TraceError, match=f"^--trace {path}: another run is writing it"):
        recorded(dream_b, path, config)
    count = 1 + len(list(steps))
    assert (read_trace(path).end, len(read_trace(path).records)) == ("done", count)


def test_a_models_name_that_is_not_unicode_is_kept_in_a_trace(dream_b, tmp_path):
    config, path = GenerationConfig(max_tokens=6, seed=4), tmp_path / "run.jsonl"
    with TraceWriter(path, dream_b[1], config, "mod\udce9l") as trace:
        best_of(*dream_b, PROMPT, config, 1, trace)
    assert read_trace(path).header["model"] == "mod\udce9l"


def test_the_text_is_what_generate_returns_padding_and_all(pocket, tmp_path):
    config = GenerationConfig(max_tokens=64)
    prompt = pocket[1].encode_chat("Implement process(k): return whether k is a prime number.")
    *_, last = recorded(pocket, tmp_path / "run.jsonl", config, prompt)
    trace = read_trace(tmp_path / "run.jsonl")
    assert trace.text == generate(*pocket, prompt, config)
    assert trace.final.tolist() == last.tokens.tolist()
    assert trace.final[-1] == pocket[1].pad_id
    assert trace.stats.nfe == last.nfe
    assert 10 < trace.stats.useful_tokens < 64


def test_masks_in_the_prompt_and_left_over_padding_are_part_of_the_canvas(dream_b, tmp_path):
    mask = dream_b[1].mask_id
    prompt = [3, mask, mask, 5, mask, 7]
    list(recorded(dream_b, tmp_path / "run.jsonl", GenerationConfig.preset("exact", max_tokens=2), prompt))
    trace = read_trace(tmp_path / "run.jsonl")
    assert json.loads((tmp_path / "run.jsonl").read_text().splitlines()[0])["canvas"] == [3, -2, 5, -1, 7, -2]
    assert trace.canvas.tokens.tolist() == [*prompt, mask, mask]
    assert mask not in trace.final


def test_a_stopped_run_leaves_a_readable_file(dream_b, tmp_path):
    steps = recorded(dream_b, tmp_path / "run.jsonl", GenerationConfig.preset("exact", max_tokens=9))
    next(steps), next(steps)
    assert len(read_trace(tmp_path / "run.jsonl").records) == 2  # while it runs
    assert read_trace(tmp_path / "run.jsonl").end is None
    steps.close()
    assert read_trace(tmp_path / "run.jsonl").end == "stopped"


def test_a_line_that_was_not_finished_is_left_out(trace_file):
    whole = trace_file.read_bytes()
    cut = whole[: whole.rindex(b'{"step"') + 25]
    trace_file.write_bytes(cut)
    assert len(read_trace(trace_file).records) == len(whole.splitlines()) - 3


@pytest.fixture
def trace_file(dream_b, tmp_path):
    list(recorded(dream_b, tmp_path / "run.jsonl", GenerationConfig.preset("exact", max_tokens=6)))
    return tmp_path / "run.jsonl"


def damaged(path, number, change):
    """The file with one line changed: by a function of its object, or to a text."""
    lines = path.read_text().splitlines()
    if callable(change):
        row = json.loads(lines[number - 1])
        change(row)
        lines[number - 1] = json.dumps(row)
    else:
        lines[number - 1] = change
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("number", "change", "said"),
    [
        (1, '{"rows": 1}', "not a trace"),
        (1, "", "not a trace"),
        (1, lambda row: row.update(diffucode_trace=7, version="9.9"), "format 7, written by diffucode 9.9"),
        (1, lambda row: row.pop("canvas"), "'canvas' is missing"),
        (1, lambda row: row.update(start=9999), "do not fit"),
        (1, lambda row: row.update(canvas=[5, -(10**12)]), "so many masks"),
        (1, lambda row: row.update(pieces=[1]), "damaged"),
        (3, '{"step": 1, "at": [', "not a JSON object"),
        (3, "[1, 2]", "not a JSON object"),
        (4, lambda row: row.pop("tokens"), "'tokens' is missing"),
        (4, lambda row: row.update(at=[1, 2]), "not of one length"),
        (4, lambda row: row.update(at=[99]), "off the canvas"),
        (4, lambda row: row.update(tokens=[1.5]), "not a whole number"),
        (4, lambda row: row.update(tokens=[10**12]), "damaged"),
        (4, lambda row: row.update(tokens=[700], pieces={}), "has no text"),
        (4, lambda row: row.update(rejected=[[9], []]), "not of one length"),
        (4, lambda row: row.update(rejected=[[13], [3]]), "off the canvas"),
        (4, lambda row: row.update(rejected=[[9], [701]]), "701 has no text"),
        (4, lambda row: row.update(rejected=[[9] * 65, [3] * 65]), "more than 64 rejected guesses"),
        (4, lambda row: row.update(window=[1]), "damaged"),
        (4, lambda row: row.update(seconds=None), "damaged"),
        (4, '{"end": "done", "seconds": 1}', "line 5: damaged (it comes after the last line)"),
    ],
)
def test_a_damaged_line_is_named(trace_file, number, change, said):
    damaged(trace_file, number, change)
    with pytest.raises(TraceError) as error:
        read_trace(trace_file)
    assert said in str(error.value)
    assert str(error.value).startswith(f"{trace_file}, line {5 if 'line 5' in said else number}: ")
    assert "\n" not in str(error.value)


PARTS = ["def f(x):\n    ", None, "\n\n    y = ", 3, "\n"]


@pytest.fixture(scope="module")
def filling(dream_a, tmp_path_factory):
    path = tmp_path_factory.mktemp("filling") / "fill.jsonl"
    with TraceWriter(path, dream_a[1], FILLING, "dream") as writer:
        return fill(*dream_a, PARTS, FILLING, instruction="hi", tries=2, trace=writer), path


@pytest.fixture
def filled(filling, tmp_path):
    """What two holes were filled with, and what was written down of it: two lengths side by side, then others."""
    shutil.copyfile(filling[1], tmp_path / "fill.jsonl")
    return filling[0]


def test_every_canvas_of_a_filling_comes_back_and_which_was_kept(dream_a, tmp_path, filled, monkeypatch):
    import mlx_diffucoder.infilling.task

    batches, real = [], mlx_diffucoder.infilling.task.denoise
    monkeypatch.setattr(
        mlx_diffucoder.infilling.task,
        "denoise",
        lambda *args, **how: iter(batches.append(list(real(*args, **how))) or batches[-1]),
    )
    again = fill(*dream_a, PARTS, FILLING, instruction="hi", tries=2)  # without a record: the same
    assert again == filled
    rows = [[step[row] for step in steps] for steps in batches for row in range(len(steps[0]))]
    assert len(rows) == filled.tried
    for number, steps in enumerate(rows, start=1):
        trace = read_trace(tmp_path / "fill.jsonl", number)
        assert (trace.row, trace.rows, trace.kept, trace.end) == (number, filled.tried, filled.kept, "done")
        changed = [one for one in steps if len(one.committed)]
        for one, back in zip(changed, trace.steps(), strict=True):
            assert (one.index, one.nfe, one.window) == (back.index, back.nfe, back.window)
            assert one.committed.tolist() == back.committed.tolist()
            assert one.tokens.tolist() == back.tokens.tolist()
        assert all(0 < record.seconds <= trace.seconds for record in trace.records)
    kept = read_trace(tmp_path / "fill.jsonl")
    assert kept.row == filled.kept
    assert kept.text == f"def f(x):\n    {filled.holes[0]}\n\n    y = {filled.holes[1]}\n"
    assert kept.stats.useful_tokens == filled.useful_tokens
    assert kept.text_of(kept.canvas.tokens[: kept.layout.prompt].tolist()) == "user\nhi\nassistant\n"


def test_every_answer_of_a_batch_comes_back(dream_b, tmp_path):
    model, tokenizer = dream_b
    config = GenerationConfig(max_tokens=9, temperature=1.5, seed=3, prefill="ab")
    prompt = [*PROMPT, *tokenizer.encode_plain("ab")]
    with TraceWriter(tmp_path / "run.jsonl", tokenizer, config, "dream") as writer:
        found = best_of(model, tokenizer, prompt, config, 3, writer)
        writer.kept = found.answers[0].row
    assert sorted(one.row for one in found.answers) == [1, 2, 3]
    for one in found.answers:
        trace = read_trace(tmp_path / "run.jsonl", one.row)
        assert trace.text == one.answer.text
        assert trace.stats.useful_tokens == one.answer.useful_tokens
        assert trace.prefix_length == len(prompt) - len(PROMPT)
    assert read_trace(tmp_path / "run.jsonl").text == found.answers[0].answer.text


def test_canvases_that_were_stopped_are_readable(filled, tmp_path):
    path = tmp_path / "fill.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:6]) + "\n")
    trace = read_trace(path)
    assert (trace.row, trace.rows, trace.kept, trace.end) == (1, 2, None, None)
    assert trace.text.startswith("def f(x):\n    ")
    path.write_text(lines[0] + "\n")
    with pytest.raises(TraceError, match="stopped before its first step"):
        read_trace(path)


def test_a_filling_that_ctrl_c_ends_leaves_what_it_did(dream_a, tmp_path, monkeypatch):
    import mlx_diffucoder.infilling.task

    real = mlx_diffucoder.infilling.task.denoise

    def interrupted(*args, **how):
        yield from itertools.islice(real(*args, **how), 2)
        raise KeyboardInterrupt

    monkeypatch.setattr(mlx_diffucoder.infilling.task, "denoise", interrupted)
    with pytest.raises(KeyboardInterrupt), TraceWriter(tmp_path / "run.jsonl", dream_a[1], FILLING, "dream") as writer:
        fill(*dream_a, PARTS, FILLING, trace=writer)
    trace = read_trace(tmp_path / "run.jsonl")
    assert (trace.end, trace.kept, trace.rows, len(trace.records)) == ("stopped", None, 1, 2)


def test_what_is_refused_before_the_first_step_leaves_no_file(dream_a, tmp_path):
    with pytest.raises(PromptError), TraceWriter(tmp_path / "run.jsonl", dream_a[1], FILLING, "dream") as writer:
        fill(*dream_a, ["no hole"], FILLING, trace=writer)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("number", "change", "said"),
    [
        (1, lambda row: row.pop("texts"), "'texts' is missing"),
        (1, lambda row: row.update(texts=[[1]]), "texts do not fit together"),
        (1, lambda row: row.pop("frame"), "texts do not fit"),
        (1, lambda row: row["frame"].update(leads=[""]), "frame does not fit"),
        (1, lambda row: row["frame"].update(prompt=999), "frame does not fit"),
        (1, lambda row: row["frame"].update(tails=[1, 2]), "not text"),
        (2, lambda row: row.update(row=2), "the next is 1"),
        (2, lambda row: row.update(lengths=[1]), "damaged"),
        (2, lambda row: row.update(lengths=[1, 10**12]), "cannot have such a length"),
        (3, lambda row: row.pop("seconds"), "'seconds' is missing"),
        (4, lambda row: row.pop("row"), "'row' is missing"),
        (4, lambda row: row.update(row=7), "no line before it opens canvas 7"),
        (-1, lambda row: row.update(kept=99), "keeps canvas 99"),
    ],
)
def test_a_damaged_line_of_several_canvases_is_named(filled, tmp_path, number, change, said):
    path = tmp_path / "fill.jsonl"
    number = number if number > 0 else len(path.read_text().splitlines())
    damaged(path, number, change)
    with pytest.raises(TraceError, match=said) as error:
        read_trace(path)
    assert str(error.value).startswith(f"{path}, line {number}: ")


def test_a_canvas_that_is_not_there(filled, trace_file, tmp_path):
    for path, said in ((tmp_path / "fill.jsonl", f"{filled.tried} canvases"), (trace_file, "one canvas")):
        with pytest.raises(TraceError, match=said):
            read_trace(path, 99)


def test_a_file_that_is_no_text_and_one_that_is_not_there(tmp_path):
    (tmp_path / "noise").write_bytes(bytes(range(256)) * 9)
    for path, said in [(tmp_path / "noise", "line 1: not a trace"), (tmp_path / "none", "No such file"), (tmp_path, "a folder")]:
        with pytest.raises(TraceError, match=said):
            read_trace(path)


def test_a_trace_is_never_written_over_something_else(tmp_path, trace_file):
    check_trace(tmp_path / "new.jsonl")
    check_trace(trace_file)  # a trace may be
    (tmp_path / "program.py").write_text("print('mine')\n")
    for path, said in [
        (tmp_path / "program.py", "is not a trace"),
        (tmp_path, "cannot be written"),
        (tmp_path / "no" / "run.jsonl", "in an existing folder"),
    ]:
        with pytest.raises(TraceError, match=said):
            check_trace(path)
    assert (tmp_path / "program.py").read_text() == "print('mine')\n"


def test_pieces_joined_are_the_text(checkpoint):
    from mlx_diffucoder import Tokenizer

    tokenizer = Tokenizer.load(checkpoint)
    for text in ("def f(x):\n\treturn x", "naïve 漢字 👩‍💻 \x1b[31m", "a\x00b\r\n", "<|im_end|>", "\ufffd"):
        ids = tokenizer.encode_plain(text)
        assert b"".join(map(tokenizer.piece, ids)).decode() == text
    specials = tokenizer.encode("<|im_end|><|mask|>")
    assert [tokenizer.piece(id) for id in (*specials, 99_999)] == [b"", b"", b""]
