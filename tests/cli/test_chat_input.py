"""The input of a chat at a terminal: history, completion, pasted text. Other tests of a chat are in test_chat.py."""

import os
import stat

import pytest

from mlx_diffucoder.cli import chat_input

from ..conftest import DATA
from .command import COMMAND
from .screen import needs_tmux, screen  # noqa: F401
from .test_chat import home

TINY = DATA / "dream-b"
CHAT = (COMMAND, "chat", "-m", TINY, "--max-tokens", "3")


@pytest.fixture
def history_file(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path))
    from platformdirs import user_state_path

    path = user_state_path("diffucode", appauthor=False) / "chat_history"
    path.parent.mkdir(parents=True)
    return path


def messages():
    return list(chat_input.open_history().load_history_strings())[::-1]


def test_messages_come_back_whole_and_only_their_owner_reads_them(history_file):
    chat_input.open_history().store_string("one\ntwo\n\nthree")
    chat_input.open_history().store_string("+ four")
    assert messages() == ["one\ntwo\n\nthree", "+ four"]
    assert stat.S_IMODE(history_file.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    "old",
    ["one\n# two\n+three café\n", "_HiStOrY_V2_\none\n#\\040two\n+three\\040caf\\303\\251\n"],
    ids=["readline", "libedit"],
)
def test_a_history_that_readline_kept_is_read(history_file, old):
    history_file.write_text(old)
    assert messages() == ["one", "# two", "+three café"]
    chat_input.open_history().store_string("four")
    assert messages() == ["one", "# two", "+three café", "four"]
    assert stat.S_IMODE(history_file.stat().st_mode) == 0o600


def test_the_history_does_not_grow_for_ever(history_file):
    history_file.write_text("".join(f"message {number}\n" for number in range(chat_input.KEPT + 5)))
    assert messages()[0] == "message 5"
    chat_input.open_history().store_string("last")
    assert messages()[-1] == "last"
    assert len(messages()) == chat_input.KEPT


def test_a_history_that_cannot_be_kept_is_a_notice(history_file, capsys):
    history_file.mkdir()
    history = chat_input.open_history()
    history.store_string("one")
    assert "no history is kept" in capsys.readouterr().err


def test_a_pipe_in_place_of_the_history_is_not_waited_for(history_file, capsys):
    os.mkfifo(history_file)
    chat_input.open_history().store_string("one")
    assert "it is a pipe" in capsys.readouterr().err


def test_text_that_is_not_unicode_does_no_harm(history_file):
    chat_input.open_history().store_string("\udce9")
    assert messages() == ["?"]


@needs_tmux
def test_the_history_is_kept_over_two_chats(screen, tmp_path):  # noqa: F811
    for number in (1, 2):
        term = screen(*CHAT, **home(tmp_path))
        term.wait_for_prompt(1)
        if number == 1:
            term.type("first message", "Enter")
            term.wait_for_prompt(2)
        else:
            term.type("Up")
            term.wait(">>> first message")
            term.type("C-u")
        term.type("C-d")
        assert term.exit_code() == 0


@needs_tmux
def test_tab_completes_commands_and_what_they_take(screen, tmp_path):  # noqa: F811
    term = screen(*CHAT, **home(tmp_path))
    term.wait_for_prompt(1)
    term.type("/pre", "Tab")
    term.wait(">>> /preset")
    term.type("Space", "ex", "Tab")
    term.wait(">>> /preset exact")
    term.type("Enter")
    term.wait("rule schedule")
    term.type("C-d")
    assert term.exit_code() == 0


@needs_tmux
def test_a_pasted_block_is_one_message(screen, tmp_path):  # noqa: F811
    term = screen(*CHAT, "--json", **home(tmp_path), COLUMNS="400", size=(400, 24))
    term.wait_for_prompt(1)
    term.paste("def f(x):\n    return \\\n        x\n\n/reset\n")
    term.wait("/reset")
    term.type("Enter")
    assert r'"user": "def f(x):\n    return \\\n        x\n\n/reset"' in term.wait_for_prompt(2)
    term.type('"""a', "Enter")
    term.wait("\n...")
    term.type('b"""', "Enter")
    assert r'"user": "a\nb"' in term.wait_for_prompt(3)
    term.type("unfinished", "C-c")
    term.wait_for_prompt(4)
    assert "Ctrl-D leaves" not in term.text.partition("unfinished")[2]
    term.type("C-d")
    assert term.exit_code() == 0


@needs_tmux
def test_without_a_screen_to_edit_on_lines_are_read_as_they_are(screen, tmp_path):  # noqa: F811
    line = f"{' '.join(map(str, CHAT))} --json | tee {tmp_path / 'out'}"
    term = screen("bash", "-c", line, **home(tmp_path), size=(400, 24))
    term.wait_for_prompt(1)
    term.type("one \\", "Enter")
    term.wait("\n...")
    term.type("two", "Enter")
    term.wait('"user"')
    term.type("C-d")
    assert term.exit_code() == 0
    assert r'"user": "one \ntwo"' in (tmp_path / "out").read_text()
