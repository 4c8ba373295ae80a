"""The command on a terminal, by tmux: what a person sees."""

import os
import shlex
import shutil
import subprocess
import time

import pytest

from .command import environment

needs_tmux = pytest.mark.skipif(shutil.which("tmux") is None, reason="tmux is not installed")


class Screen:
    """A command in a window of its own tmux server, 80 columns by 24 lines unless said otherwise."""

    def __init__(self, folder, *command, size=(80, 24), **env):
        self.socket = folder / "tmux"
        self.code = folder / "exit-code"
        line = f"{shlex.join(map(str, command))}; echo $? > {shlex.quote(str(self.code))}; sleep 60"
        columns, rows = map(str, size)
        self.tmux("new-session", "-d", "-x", columns, "-y", rows, "env", *self._set(env), "bash", "-c", line, env=environment())

    @staticmethod
    def _set(env):
        return [f"{name}={value}" for name, value in {"TERM": "screen", **env}.items()]

    def tmux(self, *args, env=None):
        command = ["tmux", "-S", self.socket, "-f", os.devnull, *args]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=env).stdout

    def type(self, *keys):
        """Text, or tmux's names of keys: `Enter`, `C-c`, `Up`."""
        self.tmux("send-keys", *keys)

    def paste(self, text):
        """As a terminal pastes: marked as pasted, where the command asks for that."""
        subprocess.run(["tmux", "-S", self.socket, "load-buffer", "-"], input=text, text=True, check=True)
        self.tmux("paste-buffer", "-p")

    @property
    def text(self):
        """The screen and what has scrolled off it."""
        return self.tmux("capture-pane", "-p", "-S", "-")

    def wait(self, *wanted, seconds=60):
        """Wait until all of it is on the screen; returns the screen."""
        return self._until(lambda: all(words in self.text for words in wanted), f"{wanted} never came", seconds)

    def wait_for_prompt(self, prompts, seconds=60):
        """Wait until the chat has asked so many times, and asks now."""
        asked = ">>>"
        return self._until(
            lambda: self.text.count(asked) == prompts and self.text.rstrip().endswith(asked), f"not {prompts} prompts", seconds
        )

    def exit_code(self, seconds=60):
        self._until(lambda: self.code.exists() and self.code.read_text(), "it did not end", seconds)
        return int(self.code.read_text())

    def _until(self, come, otherwise, seconds):
        end = time.monotonic() + seconds
        while not come():
            assert time.monotonic() < end, f"{otherwise}:\n{self.text}"
            time.sleep(0.05)
        return self.text

    def close(self):
        subprocess.run(["tmux", "-S", self.socket, "kill-server"], capture_output=True)


@pytest.fixture
def screen(tmp_path_factory):
    """Starts commands: `screen("diffucode", "chat", TERM="dumb")`."""
    screens = []

    def start(*command, **options):
        # A short path: a socket's name may not be long.
        screens.append(Screen(tmp_path_factory.mktemp("s"), *command, **options))
        return screens[-1]

    yield start
    for one in screens:
        one.close()
