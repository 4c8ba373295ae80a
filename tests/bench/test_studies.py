"""The measurements measure what they say."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest
from mlx.utils import tree_flatten

from bench.studies import synthetic
from bench.studies.frontier import GRID, REFERENCE, config_of
from bench.studies.gradient_noise import measure
from bench.studies.infill import Bench, chosen, middle, several, summary
from bench.studies.synthetic import Sizes
from mlx_diffucoder import DiffusionModel, GenerationConfig, ModelConfig, generate, load
from mlx_diffucoder.checkpoint import read_headers
from mlx_diffucoder.config import PRESETS
from mlx_diffucoder.convert import ConvertConfig, convert
from mlx_diffucoder.data import HELD_OUT, Text
from mlx_diffucoder.infilling.fill import Filled
from mlx_diffucoder.tasks import Task, read_tasks
from mlx_diffucoder.training.batches import Batches
from mlx_diffucoder.training.settings import TrainSettings

from ..cli.terminal import made_trace
from ..conftest import DATA

ROOT = DATA.parents[1]


def test_every_row_of_the_grid_is_a_configuration():
    for fields in GRID.values():
        assert config_of(fields, 64).max_tokens == 64
    assert config_of(GRID["reference, two tokens a step"], 64).steps == 32
    for name in PRESETS:
        assert config_of(GRID[name], 64) == GenerationConfig.preset(name, max_tokens=64, seed=0)


def frontier(*args):
    command = [sys.executable, "-m", "bench.studies.frontier", str(ROOT / "bench/tasks/functions.jsonl"), *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def test_frontier_writes_a_table_json_and_a_picture(tmp_path):
    pytest.importorskip("matplotlib")
    rows = ("--only", "exact", "--only", "balanced", "--only", REFERENCE)
    done = frontier("-m", DATA / "dream-b", "--limit", 2, "--max-tokens", 12, "--out", tmp_path, "--allow-code-execution", *rows)
    assert done.returncode == 0, done.stderr
    *table, last = done.stdout.splitlines()
    assert [line.split()[0] for line in table[1:]] == ["reference,", "exact", "balanced"]
    assert json.loads(last) == json.loads((tmp_path / "frontier.json").read_text())
    row = json.loads(last)["rows"]["exact"]
    assert json.loads(last)["rows"][REFERENCE]["same_text"] == 2
    assert 0 <= row["same_text"] <= 2
    assert row["tasks"] == 2
    assert {"pass@1", "nfe", "positions_per_useful_token", "tokens_per_forward", "unresolved_masks"} <= row.keys()
    assert "<svg" in (tmp_path / "frontier.svg").read_text()


@pytest.mark.parametrize(
    ("args", "said"), [([], "--allow-code-execution"), (["--allow-code-execution", "--only", "best"], "'best'")]
)
def test_frontier_says_in_one_line_what_is_wrong(args, said, tmp_path):
    done = frontier("--out", tmp_path / "out", *args)
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_synthetic_checkpoint_has_the_size_and_the_names_of_diffucoder_7b():
    sizes = Sizes()
    weights = synthetic.weights(sizes)
    assert sum(value.nbytes for value in weights.values()) == 15_231_233_024  # the Hub's index says so
    small = replace(sizes, layers=2)
    model = DiffusionModel(ModelConfig.from_dict(synthetic.config(small)))
    expected = {name: value.shape for name, value in tree_flatten(model.parameters())}
    assert {name: value.shape for name, value in synthetic.weights(small).items()} == expected


def test_a_synthetic_checkpoint_loads_converts_and_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic, "SHARD", 500_000)
    sizes = Sizes(width=128, inner=192, vocabulary=1024, layers=2, heads=4, kv_heads=2)
    synthetic.write(tmp_path / "one", sizes, seed=3)
    assert len(list((tmp_path / "one").glob("model-0000*-of-0000*.safetensors"))) > 1
    assert {stored.dtype for stored in read_headers(tmp_path / "one").values()} == {"BF16"}
    model, tokenizer = load(tmp_path / "one")
    assert 0.015 < mx.std(model.lm_head.weight.astype(mx.float32)).item() < 0.025
    assert mx.abs(model.model.norm.weight - 1).max().item() < 0.2
    assert tokenizer.mask_id < model.config.vocab_size
    synthetic.write(tmp_path / "two", sizes, seed=3)
    for file in (tmp_path / "one").iterdir():
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
    generate(
        *load(convert(tmp_path / "one", tmp_path / "out", ConvertConfig(quantize=True))), "hi", GenerationConfig(max_tokens=4)
    )


def bench(module, *args):
    command = [sys.executable, "-m", f"bench.studies.{module}", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)


@pytest.mark.slow
def test_calibrated_widths_beat_a_uniform_one_and_a_recipe_of_their_size(tmp_path):
    """On the trained checkpoint, calibrated on three tasks and judged by ten of the texts that it does not see there."""
    rows = [line for line in (ROOT / "bench/tasks/functions.jsonl").read_text().splitlines() if '"split": "seen"' in line]
    (tmp_path / "seen.jsonl").write_text("\n".join(rows[:3]))
    only = ("--only", 3, "--only", "mixed_3_6")
    done = bench(
        "calibration", DATA / "pocket-1", "--calibrate", tmp_path / "seen.jsonl", "--limit", 10, "--dtype", "float32", *only
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["rows"].keys() == {"3", "mixed_3_6"}
    for row in report["rows"].values():
        plain, calibrated = row["plain"], row["calibrated"]
        assert calibrated["bits_per_weight"] <= plain["bits_per_weight"] < calibrated["bits_per_weight"] + 0.05
        assert calibrated["kl"] < plain["kl"]
        assert calibrated["order"] > plain["order"]


def test_calibrating_on_what_one_judges_by_is_refused(tmp_path):
    (tmp_path / "own.jsonl").write_text(HELD_OUT.read_text())
    done = bench("calibration", "pocket", "--calibrate", tmp_path / "own.jsonl")
    assert done.returncode == 1
    assert "own.jsonl:1: is among the texts to compare on" in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(("module", "said"), [("synthetic", "exists already"), ("conversion", "not a checkpoint folder")])
def test_benches_say_in_one_line_what_is_wrong(module, said, tmp_path):
    done = bench(module, tmp_path)
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_conversion_is_measured_against_its_parts_and_mlx_lm(tmp_path):
    done = bench("conversion", DATA / "dream-a", "--rounds", 1, "--scratch", tmp_path, "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    for part in ("ours", "sum", "mlx-lm"):
        assert report[part]["seconds"] > 0
        assert report[part]["peak_bytes"] > 1e7
    assert report["sum"]["seconds"] == pytest.approx(sum(report["sum"][name] for name in ("read", "quantize", "write")))
    assert report["ours_over_mlx_lm"] == report["ours"]["seconds"] / report["mlx-lm"]["seconds"]
    assert list(tmp_path.iterdir()) == []


# A process's own peak. Linux's ru_maxrss also has the peak of the process that started it, a test worker here.
PEAK_MEMORY = """
import resource, sys
if sys.platform == "darwin":
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
else:
    print(next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.disk_usage("/tmp").free < 8e9, reason="writes 4 GB")
def test_the_largest_matrices_of_the_7b_pass_through_400_mb_of_memory(tmp_path):
    synthetic.write(tmp_path / "full", Sizes(layers=1))
    for number, flags in enumerate((["--q-bits", "4"], ["--q-bits", "8"])):
        script = f"from mlx_diffucoder.cli.app import run\nassert run() == 0\n{PEAK_MEMORY}"
        command = [sys.executable, "-c", script, "convert", str(tmp_path / "full"), str(tmp_path / f"out{number}"), "-q", *flags]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert done.returncode == 0, done.stderr
        assert int(done.stdout.split()[-1]) < 400e6


def test_step_times_every_decision_against_the_forward():
    done = bench("step", "--vocab", 1000, "--rows", 4, "--layers", 2, "--trials", 1)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["forward_seconds"] > 0
    for decision in report["decisions"].values():
        assert decision["share_of_forward"] == decision["seconds"] / report["forward_seconds"]


@pytest.mark.slow
def test_memory_beside_the_weights_is_under_a_tenth_of_a_4_bit_7b():
    """Two layers of the 7B's shape take 6 GB in float32."""
    done = bench("memory", "--dtype", "float32", "--max-tokens", 128)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    for preset in report["presets"].values():
        assert 0 < preset["share_of_4_bit_weights"] < 0.1


@pytest.mark.slow
def test_by_layer_measures_both_ways():
    command = [sys.executable, "-m", "bench.studies.by_layer", "--limit", "1", "--layers", "1"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["--whole"]["kl"] == report["--by-layer"]["kl"] > 0
    assert 0 < report["--by-layer"]["peak_resident_bytes"] < report["--whole"]["peak_resident_bytes"] * 1.2


def noise(*args):
    command = [sys.executable, "-m", "bench.studies.gradient_noise", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def test_the_gradients_noise_is_measured_for_each_way_to_draw_batches(tmp_path):
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps({"prompt": f"add {n}", "completion": f"x + {n}"}) + "\n" for n in range(12)))
    few = ("--batches", 3, "--batch-size", 2, "--canvas", "longest")
    done = noise(DATA / "dream-b", rows, *few, "--least-t", 0.1, "--infill", 0, "--infill", 0.5)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert [(row["least_t"], row["infill"]) for row in report["rows"]] == [(0.1, 0), (0.1, 0.5)]
    assert all(row["noise"] > 0 and row["positions"] > 0 for row in report["rows"])
    done = noise(DATA / "dream-b", rows, *few, "--least-t", 0.1, "--least-t", 2)
    assert (done.returncode, done.stdout) == (1, "")
    assert "least_t" in done.stderr and done.stderr.count("\n") == 1


def test_batches_that_are_all_the_same_have_no_noise_and_others_do(dream_b):
    model, tokenizer = dream_b
    examples = [Text(np.arange(5, 9), np.arange(9, 9 + count)) for count in range(4, 12)]
    drawn = Batches(examples, tokenizer, TrainSettings(steps=1, batch_size=2, max_length=32))

    class Same:
        def draw(self, number):
            return drawn.draw(0)

    same, others = measure(model, Same(), 4), measure(model, drawn, 4)
    assert abs(same["noise"]) < 1e-4 * same["signal"]
    assert others["noise"] > 0.01 * others["signal"]


def test_muon_side_by_side_is_timed_beside_mlxs_own_and_gives_its_bits():
    command = [sys.executable, "-m", "bench.studies.muon", "-m", str(DATA / "dream-b"), "--trials", "2"]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout.splitlines()[-1])
    assert report["same"] is True
    assert report["matrices"] > 6
    assert all(seconds > 0 for seconds in report["seconds"].values())


def curve(*args):
    command = [sys.executable, "-m", "bench.studies.curve", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)


def test_a_training_log_is_drawn_and_summed_up(tmp_path):
    pytest.importorskip("matplotlib")
    log = tmp_path / "log.jsonl"
    rows = [{"step": 10, "loss": 4.0}, {"step": 20, "loss": 2.0, "valid": 2.5}, {"step": 30, "loss": 1.5, "valid": 2.75}]
    log.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = curve(log, tmp_path / "curve.svg")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {str(log): {"step": 30, "loss": 1.5, "valid": 2.75, "lowest": 2.5}}
    assert "<svg" in (tmp_path / "curve.svg").read_text()


@pytest.mark.parametrize(
    ("content", "picture", "said"),
    [
        ("", "c.svg", "holds no report"),
        ('{"step": 1, "loss": 2}\nnonsense\n', "c.svg", "line 2"),
        ('{"step": 1}\n', "c.svg", "line 1"),
        ("[]\n", "c.svg", "line 1"),
        ('{"step": 1, "loss": 2}\n', "c.txt", ".svg"),
    ],
)
def test_a_log_that_cannot_be_drawn_is_one_line(tmp_path, content, picture, said):
    (tmp_path / "log.jsonl").write_text(content)
    done = curve(tmp_path / "log.jsonl", tmp_path / picture)
    assert (done.returncode, done.stdout) == (1, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / picture).exists()


def test_a_trace_is_drawn_also_one_without_a_step(tmp_path):
    pytest.importorskip("matplotlib")
    made_trace(tmp_path / "run", ["a", "$b", "c"], [(1, [0], []), (2, [1, 2], [0]), (3, [0], [])])
    (tmp_path / "empty").write_text((tmp_path / "run").read_text().splitlines()[0] + "\n")
    for name in ("run", "empty"):
        command = [sys.executable, "-m", "bench.studies.trace_picture", tmp_path / name, tmp_path / f"{name}.svg"]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, stdin=subprocess.DEVNULL)
        assert (done.returncode, done.stdout.strip()) == (0, str(command[-1])), done.stderr
        assert "<svg" in (tmp_path / f"{name}.svg").read_text()


SOLUTION = "def f(xs):\n    a = len(xs)\n    b = a + 1\n    c = b + a\n    d = c * 2\n    return d - b\n"


class Fills(Bench):
    """Gives each hole the next of its texts, and writes on with one."""

    def __init__(self, holes, written):
        self.__dict__.update(holes=holes, written=written)

    def fill(self, task, parts):
        assert parts.count(None) == len(self.holes)
        counts = dict.fromkeys(("score", "tried", "kept", "seen"), 1)
        return Filled(holes=self.holes, lengths=[3], agreed=True, nfe=3, positions=30, rows=(30,), useful_tokens=6, **counts)

    def write_on(self, task, prefix):
        assert SOLUTION.startswith(prefix)
        return self.written


@pytest.fixture
def counting():
    tests = "def check(candidate):\n    assert candidate([1, 2]) == 7\n\ncheck(f)\n"
    return Task(id="count", where="here", prompt="Count.", tests=tests, entry_point="f", solution=SOLUTION)


@pytest.mark.parametrize(
    ("filled", "written", "passed"),
    [
        ("    c = b + a", "    c = b + a\n    return 7\n", (True, True, True)),
        ("    c = a + b", "    c = b + a\n    return\n", (True, False, True)),
        ("    c = b", "    return (\n        7\n    )\n", (False, True, False)),
    ],
)
def test_what_fills_the_middle_line_is_run_and_so_is_what_was_written_on(counting, filled, written, passed):
    row = middle(Fills([filled], written), counting)
    assert (row["line"], row["both_sides"]) == ("    c = b + a", True)
    assert (row["passed"], row["prefix_passed"], row["prefix_line_passed"]) == passed
    assert row["exact"] == (filled == row["line"])
    report = summary([row, row | {"both_sides": False, "passed": False}], [])
    assert (report["one"]["tasks"], report["one"]["passed"]) == (2, passed[0])
    assert report["one_with_lines_on_both_sides"]["passed"] == passed[0]
    assert report["one"]["positions_per_useful_token"] == 5


def test_several_holes_are_put_together_again(counting):
    found = several(Fills(["    b = a + 1", "    d = c * 2"], ""), counting, 3)
    assert (found["valid"], found["passed"]) == (True, True)
    assert several(Fills(["    b = (", "    d = c * 2"], ""), counting, 3)["valid"] is False


def test_solutions_with_lines_on_both_sides_of_the_hole_come_first_over_all_files():
    files = [read_tasks(ROOT / "bench/tasks" / name) for name in ("functions.jsonl", "wide.jsonl")]
    hundred = {task.id for task in chosen([task for file in files for task in file], 100)}
    assert [sum(task.id in hundred for task in file) for file in files] == [63, 37]


def test_holes_of_several_files_are_filled_and_counted():
    files = [str(ROOT / "bench/tasks" / name) for name in ("functions.jsonl", "wide.jsonl")]
    few = ["-m", str(DATA / "dream-b"), "--limit", "2", "--max-tokens", "4", "--tries", "1", "--json", "--allow-code-execution"]
    command = [sys.executable, "-m", "bench.studies.infill", *files, *few]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert [row["both_sides"] for row in report["rows"]] == [True, True]
    assert report["one"]["tasks"] == 2
    assert report["several"]["valid_python"] <= report["several"]["tasks"] <= 2
