"""The command: its first line, its errors, its end."""

import json
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from mlx_diffucoder import GenerationConfig
from mlx_diffucoder.cli import model_option
from mlx_diffucoder.cli.app import app, run
from mlx_diffucoder.server import app as application
from mlx_diffucoder.server import serve as serving
from mlx_diffucoder.server.editors import settings_for
from mlx_diffucoder.server.serve import listening

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "mlx_diffucoder", "serve"]


def start(*arguments):
    process = subprocess.Popen(
        [*COMMAND, "-m", "pocket", "--port", "0", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    return process, process.stdout.readline().strip()


def test_the_address_is_the_only_line_on_stdout_and_sigterm_ends_streams_with_their_text():
    process, url = start("--max-tokens", "1500")
    assert url.startswith("http://127.0.0.1:")
    while httpx.get(url + "/health").status_code != 200:
        time.sleep(0.05)
    lines, body = [], {"prompt": "def f(x):", "temperature": 5.0, "seed": 1, "stream": True}

    def read():
        with httpx.stream("POST", url + "/v1/completions", json=body, timeout=60) as answer:
            lines.extend(line for line in answer.iter_lines() if line)

    reader = threading.Thread(target=read)
    reader.start()
    while len(lines) < 2 and reader.is_alive():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    process.send_signal(signal.SIGTERM)  # a second one hurries it
    assert process.wait(10) == 128 + signal.SIGTERM
    reader.join(10)
    assert lines[-1] == "data: [DONE]" and json.loads(lines[-2][6:])["choices"][0]["finish_reason"] in ("stop", "length")
    assert process.stdout.read() == ""


@pytest.mark.parametrize(
    ("arguments", "code", "line"),
    [
        (["-m", "pocket", "--port", "{taken}"], 1, "the port is in use"),
        (["-m", "pocket", "--host", "0.0.0.0"], 2, "set a key with --api-key"),
        (["-m", "/missing", "--port", "0"], 1, "no such folder"),
        (["-m", "{folder}", "--port", "0"], 1, "config.json: no such file"),
    ],
)
def test_what_cannot_be_served_is_one_line(arguments, code, line, monkeypatch, capfd, tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    with listening("127.0.0.1", 0) as taken:
        given = [one.format(taken=taken.getsockname()[1], folder=tmp_path) for one in arguments]
        monkeypatch.setattr(sys, "argv", ["diffucode", "serve", *given])
        assert run() == code
    out, err = capfd.readouterr()
    assert "\n" not in out.strip() and err.count("\n") == 1 and line in err
    assert signal.getsignal(signal.SIGINT) is handler


@pytest.mark.parametrize("more", [[], ["--no-tuned"]])
def test_answers_are_decoded_as_bench_tune_stored_it(more, monkeypatch):
    states, tuned = [], replace(GenerationConfig(), rule="threshold:tau=0.5", window="whole")
    monkeypatch.setattr(model_option, "with_tuned", lambda config, *_, wanted, **more: tuned if wanted else config)
    monkeypatch.setattr(application, "app_of", lambda state, **_: states.append(state))
    monkeypatch.setattr(serving, "serve", lambda app, engine, *_: engine._open() and 0)
    monkeypatch.setattr(sys, "argv", ["diffucode", "serve", "-m", "pocket", "--port", "0", *more])
    assert run() == 0 and (states[0].answers == tuned) == (not more)


@pytest.mark.parametrize("editor", ["llama.vim", "zed", "continue", "vscode", "minuet"])
def test_what_to_paste_into_an_editor_names_the_address_and_the_model(editor, capsys):
    done = CliRunner().invoke(app, ["serve", "--print-config", editor, "-m", "pocket", "--port", "9000"])
    assert done.exit_code == 0 and "http://127.0.0.1:9000" in done.output
    assert editor in ("llama.vim", "vscode") or "pocket" in done.output


@pytest.mark.parametrize("editor", ["llama.vim", "zed", "continue", "vscode", "minuet"])
def test_the_page_of_each_editor_shows_what_is_printed(editor):
    page = ROOT / "docs" / "guides" / "editors" / f"{editor.replace('.', '-')}.md"
    assert settings_for(editor, url="http://127.0.0.1:8012", model="pocket", key=None, context=2048) in page.read_text()


def test_an_unknown_editor_is_named():
    assert "llama.vim" in str(CliRunner().invoke(app, ["serve", "--print-config", "emacs"]).exception)
