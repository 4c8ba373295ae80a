"""The live canvas, as a user's terminal shows it."""

import json
import re
import subprocess

import pytest

from mlx_diffucoder.cli.live_view import FRAMES, SHARE, Live, Painter
from mlx_diffucoder.trace.reader import read_trace

from ..conftest import DATA
from .command import COMMAND, diffucode, environment
from .terminal import made_trace, needs_tmux, written_to_a_terminal

TINY = DATA / "dream-b"
ASK = ("generate", "-m", "pocket", "--max-tokens", "24", "Implement process(k): return whether k is a prime number.")
HELLO = ["def", " hello", "(", "name", "):", "\n", "    ", "return", ' "', "漢字", '"', " +", " name", "\n"]
TEXT = "".join(HELLO)


@pytest.fixture
def hello(tmp_path):
    """Three steps at once, one of them taking a token back; the last after a minute."""
    steps = [(0.1, [0, 1], []), (0.2, [2, 3, 4, 5, 9], []), (0.3, [6, 12, 13], [3]), (60, [3, 7, 8, 10, 11], [])]
    return made_trace(tmp_path / "hello.jsonl", HELLO, steps)


@pytest.fixture
def tall(tmp_path):
    """60 lines, filled from the top, of which the last 20 only after a minute."""
    lines = [f"line {number} 漢字\n" for number in range(60)]
    return made_trace(tmp_path / "tall.jsonl", lines, [(0.05, list(range(40)), []), (60, list(range(40, 60)), [])])


@pytest.fixture(scope="module")
def answer():
    """What a pipe gets."""
    return diffucode(*ASK).stdout


@needs_tmux
def test_at_the_start_there_are_masks(terminal, tmp_path):
    trace = made_trace(tmp_path / "slow.jsonl", HELLO, [(60, [0], [])])
    screen = terminal()
    screen.start("trace", "show", trace)
    lines = screen.wait(lambda shown: "forwards" in shown).splitlines()
    assert lines == ["·" * len(HELLO), "0 forwards · 0.0 tokens a forward · 0.0 tokens/s · 14 to go"]


@needs_tmux
def test_blocks_are_counted_from_the_one_that_the_answer_starts_in(terminal, tmp_path):
    trace = made_trace(tmp_path / "blocks.jsonl", HELLO, [(0.1, [0, 1], []), (0.2, [2, 3], []), (60, [4], [])])
    trace.write_text(trace.read_text().replace('{"alg": "entropy"}', '{"alg": "entropy", "window": "block-causal:length=4"}'))
    screen = terminal()
    screen.start("trace", "show", trace)
    lines = screen.wait(lambda shown: "2 forwards" in shown).splitlines()
    assert "2 forwards · block 2 of 4 · " in lines[-1]  # two tokens before the answer, 14 in it


@needs_tmux
def test_in_the_middle_there_is_what_is_known_and_what_was_taken_back(terminal, hello):
    screen = terminal()
    screen.start("trace", "show", hello)
    lines = screen.wait(lambda shown: "3 forwards" in shown).splitlines()
    assert lines[:3] == ["def hello(×):", "    ··漢字·· name", ""]
    assert re.fullmatch(r"3 forwards · 3\.0 tokens a forward · \d+\.\d tokens/s · 5 to go", lines[3])
    coloured = screen.screen("-e")
    assert re.search(r"1m\x1b\[31m(\x1b\[49m)?×", coloured)  # taken back: bold, red
    assert re.search(r"1m\x1b\[32m(\x1b\[49m)? name", coloured)  # fresh: bold, green
    assert "\x1b[94mdef" in coloured  # settled: as code


@needs_tmux
def test_a_rejected_guess_is_dim_until_the_next_step(terminal, tmp_path):
    path = made_trace(tmp_path / "run.jsonl", HELLO, [(0.1, [0], []), (0.4, [1], []), (60, [2], [])])
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[1]["rejected"], lines[2]["rejected"] = [[3, 4, 6], [10, 10, 10]], [[5], [10]]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    screen = terminal()
    screen.start("trace", "show", path)
    lines = screen.wait(lambda shown: "2 forwards" in shown).splitlines()
    assert lines[0] == "def hello·def" + "·" * (len(HELLO) - 4)
    assert re.search(r"2m(\x1b\[\d+m)*·\x1b\[3mdef", screen.screen("-e"))  # dim, and italic


@needs_tmux
def test_a_prefill_stands_before_the_masks(terminal, tmp_path):
    trace = tmp_path / "run.jsonl"
    diffucode(*ASK, "--prefill", "def process(k", "--trace", trace)
    slow = [json.loads(line) for line in trace.read_text().splitlines()]
    for line in slow[1:]:
        line["seconds"] = 60
    trace.write_text("".join(json.dumps(line) + "\n" for line in slow))
    screen = terminal()
    screen.start("trace", "show", trace)
    first, last = screen.wait(lambda shown: "forwards" in shown).splitlines()
    assert re.fullmatch(r"def process\(k·+", first)
    assert last.endswith(f"0.0 tokens/s · {first.count('·')} to go")


@needs_tmux
def test_at_the_end_there_is_the_text_and_nothing_else(terminal, hello):
    screen = terminal()
    screen.start("trace", "show", hello, "--speed", "100")
    assert screen.finish().splitlines() == [*TEXT.splitlines(), "exit=0", "$"]


@needs_tmux
def test_a_tall_canvas_scrolls_to_where_something_happens(terminal, tall):
    screen = terminal(40, 10)
    screen.start("trace", "show", tall)
    lines = screen.wait(lambda shown: "1 forward " in shown).splitlines()
    assert len(lines) == 9
    assert lines[-1] == "1 forward · lines 1-8 of 41"  # all 40 are fresh: the page stays
    screen.send("C-c")
    assert screen.finish().splitlines()[-2:] == ["exit=130", "$"]


@needs_tmux
def test_the_page_follows_the_masks(terminal, tmp_path):
    lines = [f"line {number} 漢字\n" for number in range(60)]
    steps = [(0.1 + 0.1 * number, [number], []) for number in range(30)] + [(60, [31], [])]
    screen = terminal(40, 10)
    screen.start("trace", "show", made_trace(tmp_path / "tall.jsonl", lines, steps))
    shown = screen.wait(lambda shown: "30 forwards" in shown).splitlines()
    assert "line 29 漢字" in shown
    assert "·" * 30 in shown
    assert re.match(r"30 forwards · lines \d+-31 of 31", shown[-1])


@needs_tmux
@pytest.mark.parametrize("columns", [30, 120])
def test_a_resized_terminal_is_drawn_anew_with_nothing_left_over(terminal, tmp_path, columns):
    pieces = ["def f():\n", "    return '" + "漢字" * 15 + "'\n", "    # " + "long " * 12 + "\n", "x", "\n"]
    trace = made_trace(tmp_path / "run.jsonl", pieces, [(0.1, [0, 1, 2], []), (2.5, [3], []), (60, [4], [])])
    screen = terminal(80, 24)
    screen.start("trace", "show", trace)
    screen.wait(lambda shown: "1 forward " in shown)
    screen.resize(columns, 20)
    lines = screen.wait(lambda shown: "2 forwards" in shown).splitlines()
    assert sum("def f" in line for line in lines) == 1
    assert sum("forward" in line for line in lines) == 1
    assert "".join(lines[:-1]).replace(" ", "") == "".join(pieces[:3]).replace("\n", "").replace(" ", "") + "x·"
    screen.send("C-c")
    assert screen.finish().splitlines()[0] == "exit=130"


@needs_tmux
def test_ctrl_c_in_the_middle_keeps_the_finished_text(terminal, endless):
    screen = terminal()
    screen.start("generate", *endless, "hi")
    screen.wait(lambda shown: re.search(r"(\d{2,}) forwards", shown))
    screen.send("C-c")
    shown = screen.finish()
    assert "exit=130" in shown
    assert "·" not in shown
    assert "forwards" not in shown
    assert "Traceback" not in shown
    assert len(shown.split("exit=130")[0].strip()) >= 10


def test_a_request_to_terminate_keeps_the_finished_text_and_gives_the_cursor_back(endless):
    written, code = written_to_a_terminal("generate", *endless, "hi", terminate_after=(b" forwards", 4))
    assert code == 143
    drawn, text = written.rsplit("\x1b[?25h", 1)
    assert " forwards" in drawn.rsplit("\x1b[?25l", 1)[1]  # the canvas was there, and the cursor was not
    assert "\x1b[?25l" not in text
    assert len(text.strip()) >= 3
    assert "·" not in text
    assert "Traceback" not in written


@needs_tmux
def test_a_real_run_ends_with_its_text_alone(terminal, answer):
    screen = terminal()
    screen.start(*ASK)
    assert screen.finish() == answer + "exit=0\n$"


@needs_tmux
def test_what_streams_into_a_file_is_all_there_beside_a_bar_on_the_terminal(terminal, answer, tmp_path):
    screen = terminal()
    screen.start(*ASK, behind=f"> {tmp_path / 'out.py'}")
    assert screen.finish() == "exit=0\n$"
    assert (tmp_path / "out.py").read_text() == answer


@needs_tmux
def test_a_pipe_that_is_closed_is_no_traceback(terminal):
    screen = terminal()
    screen.start(*ASK, behind="| head -1")
    shown = screen.finish()
    assert shown.splitlines()[0] == "def process(k):"
    assert "Traceback" not in shown
    assert "Exception" not in shown


def test_a_pipe_that_is_closed_from_the_start_ends_a_generation_quietly():
    process = subprocess.Popen(
        [COMMAND, *ASK], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )
    process.stdout.close()
    assert process.wait(timeout=60) == 141
    assert process.stderr.read() == b""


def test_a_terminal_that_can_show_it_is_shown_it_and_gets_its_cursor_back(hello):
    written, code = written_to_a_terminal("trace", "show", hello, "--speed", "100")
    assert code == 0
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h") == 1
    assert written.count("\x1b[?7l") == written.count("\x1b[?7h") > 1
    assert "·" in written
    assert written.endswith("\x1b[J\x1b[?25h" + TEXT.replace("\n", "\r\n"))


def test_no_colour_is_no_colour_but_still_a_canvas(hello):
    written, _ = written_to_a_terminal("trace", "show", hello, "--speed", "100", NO_COLOR="1")
    assert "·" in written
    colours = [code for codes in re.findall(r"\x1b\[([\d;]*)m", written) for code in codes.split(";")]
    assert set(colours) <= {"0", "1", "2", "4", ""}  # bold, dim, underlined


@pytest.mark.parametrize(("args", "env"), [([], {"TERM": "dumb"}), (["--no-live"], {})], ids=["dumb", "no-live"])
def test_where_no_canvas_can_be_shown_the_text_is_plain(hello, answer, args, env):
    written, code = written_to_a_terminal("trace", "show", hello, *args, **env)
    assert (written, code) == (TEXT.replace("\n", "\r\n"), 0)
    written, code = written_to_a_terminal(*ASK, *args, **env)
    assert code == 0
    assert "\x1b[?7l" not in written
    assert written.replace("\r", "").endswith(answer)


def test_piped_it_is_the_plain_text(hello):
    done = diffucode("trace", "show", hello)
    assert (done.stdout, done.stderr, done.returncode) == (TEXT, "", 0)


def test_a_terminal_of_ascii_gets_ascii_marks(hello):
    written, _ = written_to_a_terminal("trace", "show", hello, "--speed", "100", PYTHONIOENCODING="ascii:replace")
    assert "..." in written
    assert "漢" not in written
    assert written.isascii()


class Clock:
    """Time that passes only where it is told to; each frame takes some."""

    def __init__(self, monkeypatch, frame):
        self.now, self.frames = 0.0, 0
        monkeypatch.setattr("mlx_diffucoder.cli.live_view.time", self)
        monkeypatch.setattr(Painter, "size", lambda painter: (80, 24))
        monkeypatch.setattr(Painter, "write", lambda painter, text: self.drawn(frame(self.frames)))

    def perf_counter(self):
        return self.now

    def thread_time(self):
        return 0.0

    def drawn(self, seconds):
        self.frames += 1
        self.now += seconds


def frames_of(clock, hello, seconds=20.0, step_takes=0.01):
    trace = read_trace(hello)
    *_, step = trace.steps()
    with Live(trace.canvas, lambda token: trace.pieces.get(token, b"")) as view:
        while clock.now < seconds:
            clock.now += step_takes
            view.show(step)
    return clock.frames, view.spent


def test_drawing_takes_its_share_of_the_time_and_no_more(hello, monkeypatch):
    frames, spent = frames_of(Clock(monkeypatch, lambda number: 0.005), hello)
    assert 0.015 * 20 < spent <= SHARE * 20 + 0.01
    assert frames > 60


def test_frames_that_cost_little_come_no_faster_than_can_be_seen(hello, monkeypatch):
    frames, spent = frames_of(Clock(monkeypatch, lambda number: 0.0001), hello)
    assert 15 * 20 < frames <= FRAMES * 20 + 1
    assert spent < 0.01 * 20


def test_one_frame_that_took_long_does_not_stop_the_picture(hello, monkeypatch):
    frames, _ = frames_of(Clock(monkeypatch, lambda number: 1.0 if number == 5 else 0.001), hello)
    assert frames > 10 * 20
