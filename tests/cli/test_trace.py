"""`--trace` and `diffucode trace`."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from mlx_diffucoder.trace.reader import read_trace

from ..conftest import DATA
from .command import COMMAND, assert_one_line, diffucode, environment
from .terminal import made_trace

TINY = DATA / "dream-b"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same prompt, one token a step and with takings back: an older version had a rule for these."""
    folder = tmp_path_factory.mktemp("runs")
    options = ("--max-tokens", "12", "--temp", "2", "--seed", "4", "--preset", "exact", "--trace", folder / "exact.jsonl")
    done = diffucode("generate", "-m", TINY, *options, "hi")
    assert done.returncode == 0, done.stderr
    (folder / "exact.txt").write_text(done.stdout)
    shutil.copy(DATA / "remasked.jsonl", folder / "back.jsonl")
    return folder


def test_a_trace_changes_nothing_and_holds_the_run(runs):
    plain = diffucode("generate", "-m", TINY, "--max-tokens", "12", "--temp", "2", "--seed", "4", "--preset", "exact", "hi")
    assert plain.stdout == (runs / "exact.txt").read_text()
    trace = read_trace(runs / "exact.jsonl")
    assert trace.end == "done"
    assert len(trace.records) == trace.stats.nfe > 9
    assert trace.text.strip() == plain.stdout.strip()
    assert any(len(record.remasked) for record in read_trace(runs / "back.jsonl").records)


def test_json_and_a_trace_are_of_the_same_run(tmp_path):
    done = diffucode("generate", "-m", TINY, "--max-tokens", "6", "--json", "--trace", tmp_path / "run.jsonl", "hi")
    report, trace = json.loads(done.stdout), read_trace(tmp_path / "run.jsonl")
    assert (report["nfe"], report["positions"]) == (trace.stats.nfe, trace.stats.positions)
    assert report["config"] == trace.header["config"]
    assert report["model"] == trace.header["model"]


def test_a_stopped_run_leaves_what_it_did(tmp_path, endless):
    process = subprocess.Popen(
        [COMMAND, "generate", *endless, "--trace", tmp_path / "run.jsonl", "hi"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    end = time.monotonic() + 60
    while not (tmp_path / "run.jsonl").exists() or (tmp_path / "run.jsonl").read_text().count("\n") < 5:
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 130
    trace = read_trace(tmp_path / "run.jsonl")
    assert trace.end == "stopped"
    assert 3 <= len(trace.records) < 6000
    assert diffucode("trace", "show", tmp_path / "run.jsonl").returncode == 0


def test_a_trace_that_cannot_be_written_is_said_before_the_model_is_loaded(tmp_path):
    (tmp_path / "mine.py").write_text("print()\n")
    assert_one_line(
        diffucode("generate", "-m", "nowhere/at-all", "--trace", tmp_path / "mine.py", "hi"), "mine.py", "not a trace"
    )
    assert_one_line(
        diffucode("generate", "-m", "nowhere/at-all", "--trace", tmp_path / "no" / "run", "hi"), "in an existing folder"
    )
    assert (tmp_path / "mine.py").read_text() == "print()\n"


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")  # noqa: PTH110
def test_a_full_disk_is_one_line():
    assert_one_line(diffucode("generate", "-m", TINY, "--max-tokens", "4", "--trace", "/dev/full", "hi"), "/dev/full", "No space")


def bad_copy(trace, path, number, change):
    lines = trace.read_text().splitlines()
    lines[number - 1] = change(lines[number - 1])
    path.write_text("\n".join(lines) + "\n")
    return path


def test_animate_makes_an_svg_and_replaces_only_its_own(runs, tmp_path):
    out = tmp_path / "demo.svg"
    done = diffucode("trace", "animate", runs / "back.jsonl", "--out", out, "--speed", "0.5", "--width", "40", "--title", "a <b>")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{out}\n", "")
    first = out.read_text()
    assert "a &lt;b&gt;" in first
    assert "0.5x speed" in first
    assert diffucode("trace", "animate", runs / "exact.jsonl", "--out", out).returncode == 0
    assert out.read_text() != first
    out.write_text("<svg>mine</svg>")
    assert_one_line(diffucode("trace", "animate", runs / "exact.jsonl", "--out", out), "demo.svg", "not an animation")
    assert_one_line(diffucode("trace", "animate", runs / "exact.jsonl", "--speed", "0"), "--speed", "above 0", code=2)
    assert out.read_text() == "<svg>mine</svg>"
    assert [path.name for path in tmp_path.iterdir()] == ["demo.svg"]


@needs_chromium
def test_the_animation_plays_in_a_browser(runs, tmp_path):
    diffucode("trace", "animate", runs / "exact.jsonl", "--out", tmp_path / "demo.svg")
    drawing = (tmp_path / "demo.svg").read_text()
    frames = []
    for milliseconds in (300, 2000):
        # A screenshot of a running animation comes at any time, so a script stops it where it is to be seen.
        stop = f"for (const one of document.getAnimations()) {{ one.pause(); one.currentTime = {milliseconds} }}"
        page, frame = tmp_path / f"{milliseconds}.html", tmp_path / f"{milliseconds}.png"
        page.write_text(f"<body>{drawing}<script>{stop}</script>")
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / str(milliseconds)}"]
        subprocess.run([*command, f"--screenshot={frame}", f"file://{page}"], check=True, capture_output=True, timeout=120)
        frames.append(frame.read_bytes())
    assert frames[0] != frames[1]


@pytest.mark.parametrize("verb", ["show", "plot", "animate", "compare"])
def test_every_verb_names_file_and_line_of_what_is_damaged(runs, tmp_path, verb):
    bad = bad_copy(runs / "exact.jsonl", tmp_path / "bad.jsonl", 5, lambda line: line[:-9])
    other = [runs / "back.jsonl"] if verb == "compare" else []
    assert_one_line(diffucode("trace", verb, bad, *other), f"{bad}, line 5: damaged")
    assert [path.name for path in tmp_path.iterdir()] == ["bad.jsonl"]


def test_a_trace_of_another_version_and_one_that_is_not_there(runs, tmp_path):
    bad = bad_copy(runs / "exact.jsonl", tmp_path / "bad.jsonl", 1, lambda line: line.replace('_trace":5', '_trace":7'))
    assert_one_line(diffucode("trace", "show", bad), f"{bad}, line 1: a trace of format 7, written by diffucode 0.1.0")
    assert_one_line(diffucode("trace", "show", tmp_path / "none"), "none: cannot be read (No such file")


def test_a_trace_of_a_run_that_was_stopped_at_once_is_shown_and_drawn(tmp_path):
    empty = made_trace(tmp_path / "run.jsonl", ["a", "b"], [(1, [0], [])])
    empty.write_text(empty.read_text().splitlines()[0] + "\n")
    assert diffucode("trace", "show", empty).stdout == "\n"
    out = tmp_path / "run.html"
    assert diffucode("trace", "plot", empty, "--out", out).returncode == 0


@pytest.mark.parametrize("speed", ["0", "nan"])
def test_a_speed_that_cannot_be(runs, speed):
    assert_one_line(diffucode("trace", "show", runs / "exact.jsonl", "--speed", speed), "--speed", code=2)


def test_compare_in_json_has_the_numbers_worked_out_by_hand(tmp_path):
    one = made_trace(tmp_path / "one", ["a", "b", "c", "d"], [(1, [0], []), (2, [1], []), (3, [2], []), (4, [3], [])])
    other = made_trace(tmp_path / "other", ["a", "b", "c", "d"], [(1, [0], []), (2, [1, 3], []), (4, [2], [1]), (5, [1], [])])
    found = json.loads(diffucode("trace", "compare", one, other, "--json").stdout)
    first, second = found["traces"]
    assert (first["nfe"], second["nfe"], second["steps"], second["remasked"]) == (4, 4, 4, 1)
    assert first["tokens_per_forward"] == 1
    assert second["useful_tokens_per_second"] == 4 / 5
    assert set(first["local_autoregressiveness"].values()) == set(first["global_autoregressiveness"].values()) == {1}
    # a, b, d, c, b: a stands behind what was given and b behind a, the others behind none.
    assert second["local_autoregressiveness"]["1"] == 2 / 5
    # All were the leftmost mask but d, which was the second.
    assert second["global_autoregressiveness"] == {"1": 4 / 5, "2": 1, "4": 1, "8": 1}
    # Of ab ac ad bc bd cd, a stands first in both; bc, bd and cd are the other way round.
    assert found["order_agreement"] == 3 / 6
    assert found["kendall_tau"] == 0
    assert (found["same_text"], found["same_tokens"], found["first_difference"]) == (True, 1, 2)


def test_compare_of_a_run_with_itself(runs):
    found = json.loads(diffucode("trace", "compare", runs / "exact.jsonl", runs / "exact.jsonl", "--json").stdout)
    assert (found["same_text"], found["first_difference"], found["kendall_tau"]) == (True, None, 1)


def test_compare_prints_a_table(runs):
    shown = diffucode("trace", "compare", runs / "exact.jsonl", runs / "back.jsonl").stdout
    for words in ("forwards (NFE)", "exact.jsonl", "back.jsonl", "local autoregressiveness@1", "first step that differs", "tau"):
        assert words in shown


def test_runs_that_cannot_be_compared(runs, tmp_path):
    diffucode("generate", "-m", TINY, "--max-tokens", "3", "--trace", tmp_path / "run.jsonl", "ho")
    assert_one_line(diffucode("trace", "compare", runs / "exact.jsonl", tmp_path / "run.jsonl"), "another prompt")
    made = made_trace(tmp_path / "made", ["a"], [(1, [0], [])])
    assert_one_line(diffucode("trace", "compare", runs / "exact.jsonl", made), "another tokenizer")


def test_plot_writes_one_page_beside_the_trace_unless_it_is_told_where(runs, tmp_path):
    shutil.copy(runs / "back.jsonl", tmp_path / "run.jsonl")
    done = diffucode("trace", "plot", tmp_path / "run.jsonl")
    assert done.stdout.split() == [str(tmp_path / "run.html")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run.html", "run.jsonl"]


@pytest.mark.parametrize(("out", "said"), [("x.svg", "trace_picture.py"), ("x", ".html"), ("no/x.html", "in an existing folder")])
def test_a_name_that_cannot_be(runs, tmp_path, out, said):
    assert_one_line(diffucode("trace", "plot", runs / "back.jsonl", "--out", tmp_path / out), said, code=1 if "/" in out else 2)


HOSTILE = ["def", " f", "</script><img src=x onerror=document.title='bad'>", "\u2028", "漢", "\n", "end"]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    steps = [(0.1, [0, 6], []), (0.2, [1, 2, 3], []), (0.3, [4], [1]), (0.4, [5, 1], [])]
    trace = made_trace(folder / "run.jsonl", HOSTILE, steps)
    assert diffucode("trace", "plot", trace, "--out", folder / "run.html").returncode == 0
    return folder / "run.html"


def test_the_page_fetches_nothing(page):
    text = page.read_text()
    assert "default-src 'none'" in text
    assert not re.findall(r"https?:|src=[\"']|@import|url\(|fetch\(|XMLHttp", text.split('id="data"')[0])
    assert text.count("<script") == text.count("</script") == 2  # what the model wrote ends none


def browse(page, fragment, *flags):
    """What Chromium makes of the page: its document, once scripts have run."""
    clean = environment()
    clean.pop("LD_PRELOAD", None)
    command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={page.parent / 'profile'}", *flags]
    done = subprocess.run([*command, f"file://{page}#{fragment}"], env=clean, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def cells(document):
    canvas = re.search(r'<pre id="canvas".*?>(.*?)</pre>', document, re.S).group(1)
    return [(kinds, text) for kinds, text in re.findall(r'<span class="([^"]*)"[^>]*>(.*?)</span>', canvas, re.S)]


@needs_chromium
def test_the_page_names_only_what_was_set(runs, tmp_path):
    assert diffucode("trace", "plot", runs / "exact.jsonl", "--out", tmp_path / "run.html").returncode == 0
    shown = re.search(r'id="config">(.*?)</p>', browse(tmp_path / "run.html", "step=0", "--dump-dom")).group(1)
    assert "max_tokens 12 · " in shown
    assert not re.search("prefill|until|ban_tokens|system", shown)


@needs_chromium
def test_the_page_shows_the_step_that_is_asked_for(page):
    first = browse(page, "step=0", "--dump-dom")
    assert [text for _, text in cells(first)] == ["·"] * 7
    third = cells(browse(page, "step=3", "--dump-dom"))
    assert third[0] == ("", "def")
    assert third[1] == ("back window", "×")
    assert third[4] == ("fresh", "漢")
    assert third[6] == ("open", "end")
    assert "&lt;/script&gt;" in third[2][1]  # what the model wrote is text


@needs_chromium
def test_the_page_shows_rejected_guesses_in_place_of_masks(tmp_path):
    trace = made_trace(
        tmp_path / "run.jsonl", ["a", " b", "\n", "d", "e"], [(0.1, [0, 1, 2], []), (0.2, [3], [0]), (0.3, [0, 4], [])]
    )
    # Guesses at the places 0 (masked again), 3 (committed) and 4 (masked).
    bad_copy(trace, trace, 3, lambda line: line[:-1] + ',"rejected":[[2,5,6],[11,11,11]]}')
    assert diffucode("trace", "plot", trace).returncode == 0
    assert all("guess" not in kinds for kinds, _ in cells(browse(tmp_path / "run.html", "step=1", "--dump-dom")))
    second = cells(browse(tmp_path / "run.html", "step=2", "--dump-dom"))
    assert [(kinds.split()[0], text) for kinds, text in second if kinds.startswith(("back", "guess"))] == [
        ("back", "×"),
        ("guess", "b"),
    ]


@needs_chromium
def test_the_page_shows_the_text_around_holes_in_place(tmp_path):
    (tmp_path / "a.py").write_text("def f(x):\n    <FILL:2>\n    return <FILL:1>\n")
    args = ["-m", TINY, "--preset", "exact", "--trace", tmp_path / "run.jsonl"]
    filled = diffucode("infill", tmp_path / "a.py", *args)
    assert filled.returncode == 0, filled.stderr
    assert diffucode("trace", "plot", tmp_path / "run.jsonl", "--out", tmp_path / "run.html").returncode == 0
    first, last = (cells(browse(tmp_path / "run.html", f"step={step}", "--dump-dom")) for step in (0, 3))
    # The line end right behind a hole is its tokens' to write, and so is the blank before it.
    assert "".join(text for _, text in first) == "def f(x):\n   ··    return·∎"
    assert [text for kinds, text in last if "mask" in kinds] == []
    known = [place for place, (_, text) in enumerate(first) if text != "·"]
    assert [first[place][1] for place in known] == [last[place][1] for place in known]


@needs_chromium
def test_the_slider_keys_and_play_move_it(page, tmp_path):
    """A script in a copy of the page does what a hand would do, and writes down what it sees."""
    script = """<script>
    const seen = [], slider = document.getElementById("slider");
    const look = name => seen.push(name + "=" + document.getElementById("step").textContent);
    const key = name => document.dispatchEvent(new KeyboardEvent("keydown", {key: name, bubbles: true}));
    slider.value = 2; slider.dispatchEvent(new Event("input")); look("slider");
    key("ArrowRight"); look("right"); key("ArrowLeft"); key("ArrowLeft"); look("left");
    key("End"); look("end"); key("ArrowRight"); look("over"); key("Home"); look("home");
    document.querySelector("#bars i:nth-child(2)").click(); look("bar");
    document.getElementById("play").click(); look("play");
    setTimeout(() => { look("played"); document.title = seen.join(", "); }, 1500);
    </script></body>"""
    copy = tmp_path / "copy.html"
    copy.write_text(page.read_text().replace("</body>", script))
    document = browse(copy, "", "--dump-dom", "--virtual-time-budget=4000")
    title = re.search(r"<title>(.*?)</title>", document).group(1)
    assert title == (
        "slider=step 2 of 4, right=step 3 of 4, left=step 1 of 4, end=step 4 of 4, over=step 4 of 4, home=step 0 of 4,"
        " bar=step 2 of 4, play=step 2 of 4, played=step 4 of 4"
    )


@needs_chromium
def test_it_is_drawn_in_light_and_in_dark(page, tmp_path):
    shots = {}
    for name, scheme in (("light", 1), ("dark", 0)):
        flags = (
            f"--screenshot={tmp_path / name}.png",
            "--window-size=700,500",
            f"--blink-settings=preferredColorScheme={scheme}",
        )
        browse(page, "step=3", *flags)
        shots[name] = (tmp_path / f"{name}.png").read_bytes()
    assert all(shot.startswith(b"\x89PNG") for shot in shots.values())
    assert shots["light"] != shots["dark"]


def test_showing_a_trace_loads_no_model(runs):
    script = f"import sys; sys.argv = ['diffucode', 'trace', 'show', {str(runs / 'exact.jsonl')!r}]\n"
    script += "from mlx_diffucoder.cli import main\ntry: main()\nexcept SystemExit: pass\n"
    script += "print({'mlx', 'tokenizers', 'matplotlib'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"
