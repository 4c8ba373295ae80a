"""Texts as people and their systems write them: dashes and slashes, byte order marks, line ends, halves of pairs, notebooks."""

import json
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import typer

from mlx_diffucoder.cli.app import app
from mlx_diffucoder.cli.config import _change
from mlx_diffucoder.cli.settings import Schema, read_file
from mlx_diffucoder.errors import FileError
from mlx_diffucoder.infilling.file import cut
from mlx_diffucoder.trace.page import page_of
from mlx_diffucoder.trace.reader import read_trace

from ..conftest import DATA
from .command import COMMAND, assert_one_line, diffucode, environment

TINY = ("-m", DATA / "dream-b", "--max-tokens", "4")


def tokens_of(*args, stdin=""):
    return json.loads(diffucode("generate", *TINY, "--json", *args, stdin=stdin).stdout)["prompt_tokens"]


@pytest.mark.parametrize("text", ["- add a test", "-- a comment", "--- a/x.py\n+++ b/x.py", "-1 is even", "--sum of x y"])
def test_a_prompt_may_begin_with_a_dash(text):
    assert tokens_of(text) == tokens_of(stdin=text) == tokens_of("--", text)
    assert tokens_of("--system", text, "x") > tokens_of("x")


@pytest.mark.parametrize("args", [("--max-token", "5"), ("-z",), ("--max-tokens=5 x",), ("-m", "x y", "--nothing")])
def test_an_option_stays_an_option(args):
    assert diffucode("generate", *TINY, *args, "hi").returncode == 2


@pytest.mark.parametrize(
    "text", ["/usr/bin/env python", "// a comment", "/* a */", "/tmp is full", "/^a+$/ as Python", " /reset"]
)
def test_a_chat_message_may_begin_with_a_slash(text):
    done = diffucode("chat", *TINY, "--json", stdin=f"{text}\n")
    assert json.loads(done.stdout)["user"] == text.strip()


def test_a_byte_order_mark_and_line_ends_change_no_prompt(tmp_path):
    plain, windows = "one\ntwo\n", "\ufeffone\r\ntwo\r\n"
    assert tokens_of(stdin=windows) == tokens_of(stdin=plain)
    users = [
        [json.loads(line)["user"] for line in diffucode("chat", *TINY, "--json", stdin=text).stdout.splitlines()]
        for text in (plain, windows)
    ]
    assert users == [["one", "two"]] * 2
    saved = tmp_path / "chat.json"
    assert diffucode("chat", *TINY, stdin=f"/system s\n/save {saved}\n").returncode == 0
    saved.write_bytes(b"\xef\xbb\xbf" + saved.read_bytes().replace(b"\n", b"\r\n"))
    assert diffucode("chat", *TINY, stdin=f"/load {saved}\n").returncode == 0


def test_a_configuration_file_of_windows_is_read_and_changed(tmp_path):
    file = tmp_path / "c.toml"
    env = {"DIFFUCODE_CONFIG": str(file)}
    file.write_bytes(b"\xef\xbb\xbf# mine\r\n[generate]\r\nmax_tokens = 5\r\n")
    assert diffucode("config", "get", "generate.max_tokens", env=env).stdout == "5\n"
    assert diffucode("config", "set", "generate.max_tokens", "6", env=env).returncode == 0
    assert file.read_bytes() == b"# mine\r\n[generate]\r\nmax_tokens = 6\r\n"


def test_an_editor_gets_the_line_ends_that_it_sent():
    request = json.dumps({"prefix": "def f(nums):\r\n    total = 0\r\n", "suffix": "    return total\r\n"})
    holes = [
        json.loads(diffucode("infill", "-", "-m", "pocket", "--max-tokens", "12", "--tries", "1", stdin=text).stdout)["holes"][0]
        for text in (request, "\ufeff" + request, request.replace("\\r", ""))
    ]
    assert "\n" in holes[2]
    assert holes[0] == holes[1] == holes[2].replace("\n", "\r\n")


NOTEBOOK = json.dumps({"cells": [{"cell_type": "code", "source": ["def f(x):\n", "<FILL>\n"]}], "nbformat": 4}, indent=1).encode()


@pytest.mark.parametrize("text", ["    return x", 'a\n    return "x"', "\\d", "é\t"])
def test_a_notebook_stays_json(text):
    filled = cut("a.ipynb", NOTEBOOK, "<FILL>", None, None).filled([text])
    assert json.loads(filled)["cells"][0]["source"] == ["def f(x):\n", f"{text}\n"]


def test_json_that_the_model_wrote_into_a_notebook_is_taken_as_json():
    filled = cut("a.ipynb", NOTEBOOK, "<FILL>", None, None).filled(['a\\n",\n    "b'])
    assert json.loads(filled)["cells"][0]["source"] == ["def f(x):\n", "a\n", "b\n"]


def test_a_notebook_that_would_be_broken_is_refused():
    with pytest.raises(FileError, match="would no longer be JSON"):
        cut("a.ipynb", NOTEBOOK, "<FILL>", "1:1", None).filled(["x"])


def test_a_name_that_is_no_text_is_written_as_it_is(tmp_path):
    name = os.fsdecode(b"caf\xe9.py")
    (tmp_path / name).write_bytes(b"x = <FILL:2>\n")
    command = [COMMAND, "infill", name, *TINY, "--diff"]
    done = subprocess.run(command, cwd=tmp_path, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, timeout=120)
    assert done.returncode == 0
    assert b"+++ caf\xe9.py" in done.stdout
    assert_one_line(diffucode("generate", *TINY, os.fsdecode(b"caf\xe9")), "not valid Unicode text")
    assert_one_line(diffucode("infill", tmp_path / name, *TINY, "--marker", os.fsdecode(b"\xe9")), "has no hole")


def test_json_of_a_name_that_is_no_text_is_json(tmp_path):
    trace = tmp_path / os.fsdecode(b"caf\xe9")
    assert diffucode("generate", *TINY, "--trace", trace, "hi").returncode == 0
    done = diffucode("trace", "compare", trace, trace, "--json")
    assert [one["file"] for one in json.loads(done.stdout)["traces"]] == [str(trace)] * 2


def test_a_context_of_nothing_is_refused(tmp_path):
    file = tmp_path / "a.py"
    file.write_text("x = <FILL>\n")
    assert_one_line(diffucode("infill", file, *TINY, "--context", "0"), "--context 0 shows the model nothing", code=2)
    assert diffucode("infill", file, *TINY, "--context", "0", "--instruction", "one").returncode == 0


def test_a_folder_is_no_trace_of_a_chat(tmp_path):
    assert_one_line(diffucode("chat", *TINY, "--trace", tmp_path, stdin="hi\n"), str(tmp_path), "cannot be written")
    assert list(tmp_path.iterdir()) == []


def test_a_file_with_other_hard_links_is_not_replaced(tmp_path):
    file = tmp_path / "a.py"
    file.write_text("x = <FILL>\n")
    (tmp_path / "b.py").hardlink_to(file)
    assert_one_line(diffucode("infill", file, *TINY, "--write"), "a.py: has other hard links")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_replaced_file_keeps_its_owner(tmp_path):
    file = tmp_path / "a.py"
    file.write_text("x = <FILL:2>\n")
    os.chown(file, 1234, 2345)
    assert diffucode("infill", file, *TINY, "--write").returncode == 0
    assert (file.stat().st_uid, file.stat().st_gid) == (1234, 2345)


def test_settings_that_are_set_at_once_are_all_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFUCODE_CONFIG", str(tmp_path / "c.toml"))
    schema = Schema(typer.main.get_command(app))
    keys = [key for key in schema.options if key[-1] == "max_tokens"]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: _change(schema, keys[number % len(keys)], number + 1), range(40)))
    assert len(schema.flat(read_file(tmp_path / "c.toml"))) == len(keys) > 2


def test_the_replay_page_takes_a_models_name_as_text(tmp_path):
    trace = tmp_path / "t.jsonl"
    assert diffucode("generate", *TINY, "--trace", trace, "hi").returncode == 0
    run = read_trace(trace, None)
    run.header["model"] = "{{data}}{{title}}"
    assert "<title>{{data}}{{title}}: " in page_of(run)
    json.loads(page_of(run).split('type="application/json">')[1].split("</script>")[0])


def test_a_hundred_thousand_holes_are_found_at_once():
    began = time.monotonic()
    assert len(cut("x.py", b"a = <FILL>\n" * 100_000, "<FILL>", None, None).lengths) == 100_000
    assert time.monotonic() - began < 5
    with pytest.raises(FileError, match=r"x\.py:3: a hole of 0 tokens"):
        cut("x.py", b"<FILL>\n<FILL:2>\n<FILL:0>", "<FILL>", None, None)
