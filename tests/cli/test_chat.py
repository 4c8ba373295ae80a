"""`diffucode chat`: a script of turns through a pipe, and a person at a terminal."""

import json
import os
import stat
import subprocess
import time
from pathlib import Path

import pytest

from mlx_diffucoder.trace.reader import read_trace

from ..conftest import DATA
from .command import COMMAND, ENDLESS, assert_one_line, diffucode, environment
from .screen import needs_tmux, screen  # noqa: F401
from .terminal import written_to_a_terminal

TINY = DATA / "dream-b"
POCKET = ("chat", "-m", "pocket", "--max-tokens", "64", "--dtype", "float32")
SQUARES = "Write a function f(nums) that returns the sum of the squares of the even numbers in nums."


def turns(stdin, *args, **options):
    """The turns of a script, as `--json` has them."""
    done = diffucode("chat", "-m", TINY, "--max-tokens", "6", "--json", *args, stdin=stdin, **options)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_script_has_a_turn_a_line_and_nothing_but_answers_on_stdout():
    done = diffucode(*POCKET, stdin=f"{SQUARES}\n\n/reset\n{SQUARES}\n")
    assert done.returncode == 0, done.stderr
    answer = diffucode("generate", *POCKET[1:], SQUARES).stdout
    assert done.stdout == answer * 2


def test_each_turn_sees_those_before_it_until_they_are_reset():
    one, two, three, four = turns("hi\nhi\n/reset\nhi\n/system be brief\nhi\n")
    assert two["prompt_tokens"] > one["prompt_tokens"]
    assert three["prompt_tokens"] == one["prompt_tokens"]
    assert three["text"] == one["text"]
    assert four["prompt_tokens"] > two["prompt_tokens"]


def test_lines_are_joined_by_backslashes_and_three_quotes():
    script = 'one\\\ntwo\n"""three\n/reset"""\n"""\nfour\n\nfive\n"""\nsix\\\\\n"""seven"""\n/* eight \\\n*/\n'
    said = [turn["user"] for turn in turns(script)]
    assert said == ["one\ntwo", "three\n/reset", "four\n\nfive", "six\\\\", "seven", "/* eight \n*/"]


def test_the_way_of_decoding_changes_between_turns():
    configs = [turn["config"] for turn in turns("a\n/preset exact\nb\n/steps 3\nc\n/preset balanced\nd\n")]
    assert [config["rule"].partition(":")[0] for config in configs] == ["threshold", "schedule", "schedule", "threshold"]
    assert [config["steps"] for config in configs] == [None, None, 3, None]


def test_a_saved_chat_goes_on_where_it_was(tmp_path):
    file = tmp_path / "a chat.json"
    together = turns(f"one\ntwo\n/save {file}\nthree\n")[-1]
    after = turns(f"/load {file}\nthree\n")[-1]
    assert (after["prompt_tokens"], after["text"]) == (together["prompt_tokens"], together["text"])


def test_each_answer_has_a_trace_of_its_own_and_none_is_written_over(tmp_path):
    (tmp_path / "run-2.jsonl").write_text("mine\n")
    one, two = turns("hi\nho\n", "--trace", tmp_path / "run.jsonl")
    assert [one["trace"], two["trace"]] == [str(tmp_path / "run-3.jsonl"), str(tmp_path / "run-4.jsonl")]
    for turn in (one, two):
        trace = read_trace(Path(turn["trace"]))
        assert (trace.text, trace.end, trace.stats.nfe) == (turn["text"], "done", turn["nfe"])
    assert len(list(tmp_path.iterdir())) == 3
    assert (tmp_path / "run-2.jsonl").read_text() == "mine\n"
    done = diffucode("chat", "-m", TINY, "--max-tokens", "3", "--trace", tmp_path / "other", stdin="hi\n")
    assert f"trace written to {tmp_path / 'other-1'}\n" in done.stderr
    for name in (tmp_path / "no" / "run", "."):
        assert_one_line(diffucode("chat", "-m", "nowhere/at-all", "--trace", name), "in an existing folder")


def test_turns_that_do_not_fit_are_left_out_and_that_is_said(broken, edit_json):
    edit_json(broken / "config.json", max_position_embeddings=120)
    script = "\n".join(f"turn {i} and so on and so on" for i in range(6))
    done = diffucode("chat", "-m", broken, "--max-tokens", "4", "--json", stdin=script)
    assert done.returncode == 0, done.stderr
    said = [json.loads(line) for line in done.stdout.splitlines()]
    assert [turn["dropped_turns"] for turn in said[:2]] == [0, 0]
    assert 0 < said[-1]["dropped_turns"] < 5
    assert all(turn["prompt_tokens"] + 4 <= 120 for turn in said)
    assert f"the oldest {said[-1]['dropped_turns']} of 5 turns are dropped" in done.stderr


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("/svae x", ["/svae: no such command", "'/save'"]),
        ("/preset quick", ["/preset", "balanced", "quick"]),
        ("/steps many", ["/steps", "many"]),
        ("/steps 0", ["--steps"]),
        ("/save", ["/save needs the name of a file"]),
        ("/load /no/such", ["/no/such"]),
        ("/reset all", ["/reset takes no argument"]),
        ("/edit", ["terminal"]),
        ('"""open', ["not closed"]),
        ("x " * 3000, ["context"]),
        (b"caf\xe9\n", ["UTF-8"]),
    ],
    ids=lambda value: str(value)[:12],
)
def test_an_error_ends_a_script_with_one_line(script, said):
    assert_one_line(diffucode("chat", "-m", TINY, "--max-tokens", "4", stdin=script), *said)


def test_raw_text_is_no_chat():
    assert_one_line(diffucode("chat", "-m", TINY, "--raw"), "--raw", "generate", code=2)


def home(tmp_path):
    return {"HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path / "state"), "LD_PRELOAD": os.environ.get("LD_PRELOAD", "")}


@needs_tmux
def test_a_person_chats_resets_and_leaves(screen, tmp_path):  # noqa: F811
    term = screen(COMMAND, *POCKET, **home(tmp_path))
    assert "/help lists the commands" in term.wait_for_prompt(1)
    term.type("-l", SQUARES)
    term.type("Enter")
    first = term.wait_for_prompt(2)
    assert "    return sum(x * x for x in nums if x % 2 == 0)" in first
    term.type("-l", "Write it again, \\")
    term.type("Enter")
    term.wait("\n...")
    term.type("-l", "but other.")
    term.type("Enter")
    term.wait_for_prompt(3)
    term.type("/reset", "Enter")
    term.wait("all turns are forgotten")
    term.wait_for_prompt(4)
    term.type("/hlep", "Enter")
    term.wait("did you mean '/help'?")
    term.type("Up", "Up")
    term.wait(">>> /reset")
    term.type("C-u", "C-d")
    assert term.exit_code() == 0
    kept = next((tmp_path).rglob("chat_history"))
    assert SQUARES in kept.read_text()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


@needs_tmux
def test_ctrl_c_stops_the_answer_and_keeps_the_chat(screen, tmp_path):  # noqa: F811
    saved = tmp_path / "chat.json"
    term = screen(COMMAND, *POCKET, *ENDLESS, **home(tmp_path))
    term.wait_for_prompt(1)
    term.type("-l", SQUARES)
    term.type("Enter")
    term.wait("def f", "    return")
    term.type("C-c")
    term.wait("stopped; the finished part is kept")
    term.wait_for_prompt(2)
    term.type("C-c")
    term.wait("/bye or Ctrl-D leaves")
    term.type(f"/save {saved}", "Enter")
    term.wait("1 turns saved")
    (turn,) = json.loads(saved.read_text())["turns"]
    assert turn["user"] == SQUARES
    assert turn["answer"].startswith("def f")
    term.type("/bye", "Enter")
    assert term.exit_code() == 0
    assert "Traceback" not in term.text


def test_a_request_to_terminate_ends_a_chat_at_its_prompt_and_in_an_answer(tmp_path, endless):
    written, code = written_to_a_terminal("chat", "-m", TINY, terminate_after=(b">>>", 1), **home(tmp_path))
    assert (code, "Traceback" in written) == (143, False)
    script = subprocess.Popen(
        [COMMAND, "chat", *endless, "--trace", tmp_path / "run.jsonl"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    script.stdin.write(b"hi\nhi\n")
    script.stdin.flush()
    end = time.monotonic() + 60
    while not (tmp_path / "run-1.jsonl").exists() or (tmp_path / "run-1.jsonl").read_text().count("\n") < 3:
        assert time.monotonic() < end
        time.sleep(0.05)
    script.terminate()
    _, err = script.communicate(timeout=60)
    assert (script.returncode, b"Traceback" in err) == (143, False)
    assert read_trace(tmp_path / "run-1.jsonl").end == "stopped"
    assert not (tmp_path / "run-2.jsonl").exists()


@needs_tmux
def test_the_last_message_can_be_edited_and_several_lines_pasted(screen, tmp_path):  # noqa: F811
    editor = tmp_path / "editor"
    editor.write_text('#!/bin/bash\nsed -i s/one/three/ "$1"\n')
    editor.chmod(0o755)
    term = screen(COMMAND, "chat", "-m", TINY, "--max-tokens", "4", "--json", **home(tmp_path), EDITOR=str(editor), VISUAL="")
    term.wait_for_prompt(1)
    term.type("one", "Enter")
    term.wait_for_prompt(2)
    term.type("/edit", "Enter")
    text = term.wait_for_prompt(3)
    assert '{"user": "three"' in text.replace("\n", "")
    term.paste("// four\nfive")
    term.wait("five")
    term.type("Enter")
    text = term.wait_for_prompt(4)
    assert '{"user": "// four\\nfive"' in text.replace("\n", "")
    term.type("C-d")
    assert term.exit_code() == 0


@needs_tmux
def test_a_dumb_terminal_gets_plain_text(screen, tmp_path):  # noqa: F811
    log = tmp_path / "bytes"
    line = f'script -qec "{COMMAND} chat -m {TINY} --max-tokens 4" {log}'
    term = screen("bash", "-c", line, **home(tmp_path), TERM="dumb", NO_COLOR="1")
    term.wait_for_prompt(1)
    term.type("hi", "Enter")
    term.wait_for_prompt(2)
    term.type("C-d")
    term.exit_code()
    assert b"\x1b" not in log.read_bytes()
