"""A chat at work: what is said is answered, and what begins with a slash is done."""

import json
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from ..chat import Chat
from ..config import PRESETS, GenerationConfig
from ..errors import ChatError, DiffucoderError, did_you_mean
from .chat_input import BLOCK, Entry, Lines
from .generate import Run
from .terminal import Terminated, code_of, edit_text, print_error

if TYPE_CHECKING:
    from ..models.transformer import DiffusionModel
    from ..tokenizer import Tokenizer

HOW_TO_LEAVE = "/bye or Ctrl-D leaves"


class Command(NamedTuple):
    """What a command takes, what it does in words, and what does it."""

    takes: str
    what: str
    run: Callable[[str], None]


class Leave(Exception):
    """The user has said goodbye."""


class Conversation:
    """One run of `diffucode chat`: the chat so far, and how its answers are decoded."""

    def __init__(
        self,
        name: str,
        model: "DiffusionModel",
        tokenizer: "Tokenizer",
        config: GenerationConfig,
        lines: Lines,
        *,
        as_json: bool,
        verbose: bool,
        live: bool,
        trace: Path | None = None,
    ):
        self.name, self.model, self.tokenizer, self.config, self.lines = name, model, tokenizer, config, lines
        self.as_json, self.verbose, self.live, self.trace = as_json, verbose, live, trace
        self.chat = Chat(config.system)
        self.last = ""
        self.dropped = 0
        self.commands = {
            "help": Command("", "list the commands", self._help),
            "reset": Command("", "forget all turns; the system message stays", self._reset),
            "system": Command("TEXT", "set the system message; with no text, take it away", self._system),
            "preset": Command("NAME", f"decode with {', '.join(PRESETS)}", self._preset),
            "steps": Command("N", "decode by the schedule, in N steps", self._steps),
            "save": Command("FILE", "write the chat into a file", self._save),
            "load": Command("FILE", "go on with a chat from a file", self._load),
            "edit": Command("", "edit the last message in $EDITOR, and ask it anew", self._edit),
            "bye": Command("", "leave", self._bye),
        }

    def go(self) -> int:
        """Talk until the end; returns the exit code."""
        while True:
            try:
                entry = self.lines.read()
                if entry is None:
                    return 0
                self._take(entry)
            except Leave:
                return 0
            except KeyboardInterrupt as stop:
                if not self.lines.typed or isinstance(stop, Terminated):
                    return code_of(stop)
                self._say("\n" + HOW_TO_LEAVE if self.lines.empty_handed else "")
            except DiffucoderError as error:
                if not self.lines.typed:
                    raise
                print_error(error)

    def _take(self, entry: Entry) -> None:
        text = entry.text.strip()
        if not text:
            return
        name, _, rest = text[1:].partition(" ")
        command = self.commands.get(name)
        # Of several lines, a first one that no command begins is a path, or a comment.
        if entry.block or not text.startswith("/") or (command is None and "\n" in text):
            self._ask(text, self.chat)
            return
        if command is None:
            near = did_you_mean(name, self.commands).replace("'", "'/", 1)
            raise ChatError(f"/{name}: no such command{near or '; /help lists them'}")
        if rest and not command.takes:
            raise ChatError(f"/{name} takes nothing behind it; it was not done")
        command.run(rest.strip())

    def _ask(self, text: str, chat: Chat) -> None:
        """Answer a message to a chat, which goes on with it and with what is finished of its answer."""
        self.last = text
        prefill = self.tokenizer.encode_plain(self.config.prefill)
        room = self.model.config.max_position_embeddings - self.config.max_tokens - len(prefill)
        ids, dropped = chat.prompt(self.tokenizer, text, room)
        ids = [*ids, *prefill]
        file = numbered(self.trace) if self.trace else None
        trace = (file, self.name) if file else None
        run = Run(self.model, self.tokenizer, ids, self.config, stream=not self.as_json, live=self.live, trace=trace)
        if dropped > self.dropped:
            self._say(f"the context is full: {dropped} of {len(chat.turns)} turns, the oldest, are left out")
        self.dropped = dropped
        stop = run.go()
        answer = run.answer.text.strip("\n")
        if answer.strip():
            self.chat = chat.with_turn(text, answer)
        if self.as_json:
            turn = {"user": text, "dropped_turns": dropped, **run.report(self.name, interrupted=stop is not None)}
            turn |= {"trace": str(file)} if file else {}
            print(json.dumps(turn, ensure_ascii=False), flush=True)
        elif file:
            self._say(f"its steps are in {file}")
        if self.verbose:
            run.print_numbers()
        if stop and (not self.lines.typed or isinstance(stop, Terminated)):
            raise stop
        if stop:
            kept = "what was finished is kept" if answer.strip() else "nothing was finished; /edit has the message"
            self._say(f"stopped; {kept}")

    def _help(self, _: str) -> None:
        lines = [f"  {f'/{name} {command.takes}':14}  {command.what}" for name, command in self.commands.items()]
        lines += [f"  {BLOCK:14}  opens and closes a message of several lines", f"  {'Ctrl-C':14}  stops an answer"]
        print("\n".join(lines), file=sys.stdout if self.lines.typed else sys.stderr)  # asked for, so not kept quiet

    def _reset(self, _: str) -> None:
        self.chat, self.dropped = Chat(self.chat.system), 0
        self._say("the turns are forgotten")

    def _system(self, text: str) -> None:
        self.chat = replace(self.chat, system=text or None)
        self._say("the system message is set" if text else "there is no system message now")

    def _preset(self, name: str) -> None:
        if name not in PRESETS:
            near = did_you_mean(name, PRESETS)
            raise ChatError(f"/preset takes one of {', '.join(PRESETS)}, not {name!r}{near}")
        self.config = replace(self.config, steps=None, **PRESETS[name])
        self._say(f"rule {self.config.rule}, window {self.config.window}")

    def _steps(self, number: str) -> None:
        if not number.isdecimal():
            raise ChatError(f"/steps takes a whole number, not {number!r}")
        self.config = replace(self.config, steps=int(number), rule="auto", window="auto")
        self._say(f"{self.config.steps} steps, rule {self.config.rule}, window {self.config.window}")

    def _save(self, file: str) -> None:
        path = _path("save", file)
        self.chat.save(path)
        self._say(f"{len(self.chat.turns)} turns saved in {path}")

    def _load(self, file: str) -> None:
        path = _path("load", file)
        self.chat, self.dropped = Chat.load(path), 0
        self.last = self.chat.turns[-1].user if self.chat.turns else ""
        self._say(f"{len(self.chat.turns)} turns, read from {path}")

    def _edit(self, _: str) -> None:
        text = edit_text(self.last).strip()
        answered = bool(self.chat.turns) and self.chat.turns[-1].user == self.last
        if not text or (answered and text == self.last):
            self._say("the message is as it was, and was not sent again")
            return
        self._ask(text, replace(self.chat, turns=self.chat.turns[:-1]) if answered else self.chat)

    def _bye(self, _: str) -> None:
        raise Leave

    def _say(self, text: str) -> None:
        """A word of the program's own: never on stdout."""
        print(text, file=sys.stderr)


def numbered(path: Path) -> Path:
    """`run.jsonl` -> `run-1.jsonl`, or behind the last of those that are there: none is ever written over."""
    if not path.name:
        return path  # a folder, which is refused
    names = re.compile(re.escape(path.stem) + r"-([0-9]+)" + re.escape(path.suffix))
    found = (names.fullmatch(file.name) for file in path.parent.iterdir()) if path.parent.is_dir() else ()
    return path.with_stem(f"{path.stem}-{1 + max((int(one[1]) for one in found if one), default=0)}")


def _path(command: str, file: str) -> Path:
    if not file:
        raise ChatError(f"/{command} needs a file's name")
    return Path(file).expanduser()
