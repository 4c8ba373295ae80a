"""`diffucode chat`: many turns with one model."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from ..chat import Chat
from ..config import PRESETS, GenerationConfig, preset_fields
from ..errors import ChatError, ConfigError, DiffucoderError, did_you_mean
from . import options
from .chat_input import BLOCK, Message, open_input
from .command import Command, examples, print_error
from .terminal import Terminated, code_of, edit_text, note, print_numbers, put, put_json

if TYPE_CHECKING:
    from .model_option import Opened

JsonTurns = Annotated[bool, options.in_output("--json", help="Print one JSON object for each turn.")]

app = typer.Typer()


@app.command(
    cls=Command,
    epilog=examples(
        "diffucode chat -m pocket --max-tokens 64",
        "diffucode chat -m pocket --json < turns.txt | jq .text",
    ),
)
def chat(
    context: typer.Context,
    model: options.Model = None,
    dtype: options.Dtype = None,
    adapter: options.Adapter = None,
    revision: options.Revision = None,
    refresh: options.Refresh = False,
    yes: options.Yes = False,
    preset: options.Preset = None,
    rule: options.Rule = "auto",
    window: options.Window = "auto",
    max_tokens: options.UsualMaxTokens = None,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    top_k: options.TopK = 0,
    seed: options.Seed = None,
    system: options.System = None,
    prefill: options.Prefill = "",
    until: options.Until = None,
    ban_tokens: options.BanTokens = None,
    raw: options.Raw = False,
    steps: options.Steps = None,
    alg: options.Algorithm = "entropy",
    alg_temp: options.AlgorithmTemperature = 0.0,
    eps: options.Eps = 1e-3,
    reference: options.Reference = False,
    tuned: options.Tuned = True,
    as_json: JsonTurns = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
    live: options.Live = True,
    trace: options.TraceOut = None,
) -> int:
    """Talk to a model, turn by turn.

    Enter sends a message. Three quotes open and close a message of several lines; a backslash at the end of a line continues
    it on the next. /help lists the commands, and Tab completes them. Ctrl-C stops an answer and keeps its finished part;
    Ctrl-D leaves. When the context is full, the oldest turns are dropped, with a notice. Piped text is a script: each line
    is a turn, answers go to stdout, and the first error ends it. --trace run.jsonl writes run-1.jsonl, run-2.jsonl and so on,
    one file for each answer.
    """
    config = options.decoding_config(context)
    if config.raw:
        raise ConfigError("raw turns the chat template off, and a chat needs it; use generate", field="raw")
    return _chat(context, config)


def _chat(context: typer.Context, config: GenerationConfig) -> int:
    from ..trace.writer import check_trace, next_trace
    from .model_option import open_model

    given = {name: context.params[name] for name in ("as_json", "verbose", "live", "trace")}
    if given["trace"]:
        check_trace(given["trace"] if given["trace"].is_dir() else next_trace(given["trace"]))
    return Conversation(open_model(context, config, verbose=given["verbose"]), **given).run()


class SlashCommand(NamedTuple):
    """A command of the chat: the argument that it takes, a line of help, and its function."""

    takes: str
    help: str
    run: Callable[[str], None]


class Conversation:
    """One run of `diffucode chat`: the chat so far, and how its answers are decoded."""

    def __init__(self, opened: "Opened", *, as_json: bool, verbose: bool, live: bool, trace: Path | None):
        self.opened = opened
        self.as_json, self.verbose, self.live, self.trace = as_json, verbose, live, trace
        self.chat, self.last, self.dropped = Chat(opened.config.system), "", 0
        self.commands = {
            "help": SlashCommand("", "list the commands", self._help),
            "reset": SlashCommand("", "forget all turns and keep the system message", self._reset),
            "system": SlashCommand("TEXT", "set the system message; without TEXT, remove it", self._system),
            "preset": SlashCommand("NAME", f"decode with {', '.join(PRESETS)}", self._preset),
            "steps": SlashCommand("N", "decode with the schedule, in N steps", self._steps),
            "save": SlashCommand("FILE", "save the chat", self._save),
            "load": SlashCommand("FILE", "continue a saved chat", self._load),
            "edit": SlashCommand("", "edit the last message in $EDITOR and send it again", self._edit),
            "bye": SlashCommand("", "leave", self._bye),
        }
        words: dict[str, Sequence[str] | None] = {"NAME": list(PRESETS), "FILE": None}
        self.input = open_input({f"/{name}": words.get(one.takes, ()) for name, one in self.commands.items()})

    def run(self) -> int:
        """Talk until the end of the input. Returns the exit code."""
        if self.input.typed:
            note(f"{self.opened.name}: /help lists the commands, Ctrl-D leaves")
        while True:
            try:
                self._handle(self.input.read())
            except EOFError:  # the input ended, or the user asked to leave
                return 0
            except KeyboardInterrupt as stop:
                if not self.input.typed or isinstance(stop, Terminated):
                    return code_of(stop)
                if self.input.empty:
                    note("/bye or Ctrl-D leaves")
            except DiffucoderError as error:
                print_error(error)
                if not self.input.typed:
                    return 1

    def _handle(self, message: Message) -> None:
        """Run a command, or answer a message. A blank before the slash makes a message of it."""
        if not (text := message.text.strip()):
            return
        name, _, rest = text[1:].partition(" ")
        command = self.commands.get(name)
        near = did_you_mean(name, self.commands).replace("'", "'/", 1) if name.isalpha() else ""
        # Other text that starts with a slash is a path, a comment or a pattern: only a word alone is a command mistyped.
        no_command = command is None and ("\n" in text or not (near or (name.isalpha() and not rest)))
        if message.block or not message.text.startswith("/") or no_command:
            self._ask(text, self.chat)
            return
        if command is None:
            raise ChatError(f"/{name}: no such command{near or '; /help lists them'}")
        if rest and not command.takes:
            raise ChatError(f"/{name} takes no argument; nothing was done")
        command.run(rest.strip())

    def _ask(self, text: str, chat: Chat) -> None:
        """Answer a message; it joins `chat` together with the finished part of its answer."""
        from ..generation import tokens_left
        from ..run import Run
        from ..trace.writer import next_trace
        from .progress import follow

        self.last = text
        _, model, tokenizer, config = self.opened
        prefill = tokenizer.encode_plain(config.prefill)
        most = tokens_left(model, tokenizer, prefill) - config.max_tokens
        tokenizer.check_length(text, model.config.max_position_embeddings)
        ids, dropped = chat.prompt(tokenizer, text, most)
        file = next_trace(self.trace) if self.trace else None
        run = Run(*self.opened, [*ids, *prefill], trace=file)
        if dropped > self.dropped:
            note(f"the context is full: the oldest {dropped} of {len(chat.turns)} turns are dropped")
        self.dropped = dropped
        stop, lines = follow(run, stream=not self.as_json, live=self.live)
        answer = run.answer.text.strip("\n")
        if answer.strip():
            self.chat = chat.with_turn(text, answer)
        if self.as_json:
            turn = {"user": text, "dropped_turns": dropped, **run.report(interrupted=stop is not None)}
            turn |= {"trace": str(file)} if file else {}
            put_json(turn)
        elif file:
            note(f"trace written to {file}")
        if self.verbose:
            print_numbers({**run.stats.lines(), **lines})
        if stop and (not self.input.typed or isinstance(stop, Terminated)):
            raise stop
        if stop:
            kept = "the finished part is kept" if answer.strip() else "nothing was finished; /edit has the message"
            note(f"stopped; {kept}")

    def _help(self, _: str) -> None:
        lines = [f"  {f'/{name} {command.takes}':14}  {command.help}" for name, command in self.commands.items()]
        lines += [f"  {BLOCK:14}  open and close a message of several lines", f"  {'Ctrl-C':14}  stop an answer"]
        (put if self.input.typed else note)("\n".join(lines))  # `--quiet` does not silence stdout

    def _reset(self, _: str) -> None:
        self.chat, self.dropped = Chat(self.chat.system), 0
        note("all turns are forgotten")

    def _system(self, text: str) -> None:
        self.chat = replace(self.chat, system=text or None)
        note("the system message is set" if text else "the system message is removed")

    def _preset(self, name: str) -> None:
        if name not in PRESETS:
            near = did_you_mean(name, PRESETS)
            raise ChatError(f"/preset takes one of {', '.join(PRESETS)}, not {name!r}{near}")
        config = self._decode_with(steps=None, **preset_fields(name))
        note(f"rule {config.rule}, window {config.window}")

    def _steps(self, number: str) -> None:
        if not number.isdecimal():
            raise ChatError(f"/steps takes a whole number, not {number!r}")
        config = self._decode_with(steps=int(number), rule="auto", window="auto")
        note(f"{config.steps} steps, rule {config.rule}, window {config.window}")

    def _decode_with(self, **changes: Any) -> GenerationConfig:
        config = replace(self.opened.config, **changes).for_model(self.opened.model)
        self.opened = self.opened._replace(config=config)
        return config

    def _save(self, file: str) -> None:
        path = _path("save", file)
        self.chat.save(path)
        note(f"{len(self.chat.turns)} turns saved in {path}")

    def _load(self, file: str) -> None:
        path = _path("load", file)
        self.chat, self.dropped = Chat.load(path), 0
        self.last = self.chat.turns[-1].user if self.chat.turns else ""
        note(f"{len(self.chat.turns)} turns read from {path}")

    def _edit(self, _: str) -> None:
        text = edit_text(self.last).strip()
        answered = bool(self.chat.turns) and self.chat.turns[-1].user == self.last
        if not text or (answered and text == self.last):
            note("the message did not change; it was not sent again")
            return
        self._ask(text, replace(self.chat, turns=self.chat.turns[:-1]) if answered else self.chat)

    def _bye(self, _: str) -> None:
        raise EOFError


def _path(command: str, file: str) -> Path:
    if not file:
        raise ChatError(f"/{command} needs the name of a file")
    return Path(file).expanduser()
