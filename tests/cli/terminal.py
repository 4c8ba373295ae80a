"""A terminal to run the command in: tmux, whose screen can be read as text, and a bare one, whose bytes can."""

import json
import os
import pty
import re
import shlex
import shutil
import subprocess
import time

import pytest

from .command import COMMAND, environment

TMUX = shutil.which("tmux")
needs_tmux = pytest.mark.skipif(TMUX is None, reason="no tmux on this machine")


class Terminal:
    """A tmux session of its own server, running one shell command."""

    def __init__(self, folder, columns=80, rows=24):
        self._socket = str(folder / "tmux")
        self._run("-f", "/dev/null", "new-session", "-d", "-x", str(columns), "-y", str(rows), "env PS1='$ ' sh")

    def _run(self, *args):
        # A library that is loaded into every program may not suit tmux.
        clean = environment(LC_ALL="C.UTF-8")
        clean.pop("LD_PRELOAD", None)
        return subprocess.run([TMUX, "-S", self._socket, *args], env=clean, capture_output=True, text=True, check=True).stdout

    def start(self, *args, env="", behind=""):
        """Type `diffucode ARGS`, in a terminal that shows nothing but what comes of it and then the exit code."""
        preload = f"LD_PRELOAD={os.environ['LD_PRELOAD']}" if os.environ.get("LD_PRELOAD") else ""
        words = shlex.join([str(COMMAND), *map(str, args)])
        script = f"clear; env {preload} {env} {words} {behind}; echo exit=$?"
        self._run("send-keys", "-l", f" {script}")
        self._run("send-keys", "Enter")

    def send(self, *keys):
        self._run("send-keys", *keys)

    def resize(self, columns, rows):
        self._run("resize-window", "-x", str(columns), "-y", str(rows))

    def screen(self, *options):
        return self._run("capture-pane", "-p", *options).rstrip("\n")

    def wait(self, found, seconds=30.0):
        """The screen once `found` says that it is there."""
        end = time.monotonic() + seconds
        while not found(screen := self.screen()):
            assert time.monotonic() < end, screen
            time.sleep(0.05)
        return screen

    def finish(self):
        """The screen once the command is over."""
        return self.wait(lambda screen: re.search(r"^exit=\d+$", screen, re.M))

    def close(self):
        subprocess.run([TMUX, "-S", self._socket, "kill-server"], capture_output=True)


def written_to_a_terminal(*args, terminate_after=None, **env):
    """All that `diffucode ARGS` writes to a bare terminal, and its exit code.

    Args:
        terminate_after: once this has come so many times, SIGTERM is sent; bytes and a number.
    """
    master, slave = pty.openpty()
    env = environment(**({"TERM": "xterm-256color", "LC_ALL": "C.UTF-8"} | env))
    process = subprocess.Popen([COMMAND, *map(str, args)], stdin=slave, stdout=slave, stderr=slave, env=env)
    os.close(slave)
    written = b""
    try:
        while chunk := os.read(master, 65536):
            written += chunk
            if terminate_after and written.count(terminate_after[0]) >= terminate_after[1]:
                time.sleep(0.3)  # a prompt comes before it is waited at
                process.terminate()
                terminate_after = None
    except OSError:  # the terminal's other end is closed
        pass
    os.close(master)
    return written.decode(), process.wait(timeout=60)


def made_trace(path, pieces, steps, start=2):
    """A trace by hand: one token for each piece, in steps of (seconds, places committed, places taken back)."""
    ids = {piece: number for number, piece in enumerate(dict.fromkeys(pieces), start=10)}
    mask, header_pieces = 1, {"3": "<", "4": ">"}
    header = {
        "diffucode_trace": 1, "version": "0.1.0", "model": "made", "tokenizer": "made", "config": {"alg": "entropy"},
        "mask": mask, "pad": 2, "ends": [2], "start": start, "canvas": [3, 4, -len(pieces)], "pieces": header_pieces,
    }  # fmt: skip
    lines = [header]
    for number, (seconds, at, back) in enumerate(steps):
        line = {
            "step": number, "seconds": seconds, "nfe": number + 1, "positions": 10 * (number + 1), "window": [0, 9],
            "at": [place + start for place in at], "tokens": [ids[pieces[place]] for place in at], "scores": [0.5] * len(at),
            "back": [place + start for place in back], "pieces": {str(ids[pieces[place]]): pieces[place] for place in at},
        }  # fmt: skip
        lines.append(line)
    lines.append({"end": "done", "seconds": steps[-1][0]})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path
