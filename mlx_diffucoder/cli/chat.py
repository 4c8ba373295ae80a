"""`diffucode chat`: many turns with one model."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..config import GenerationConfig
from ..errors import ConfigError
from .options import Adapter, Dtype, Model, Tuned, Yes, decodes


@decodes
def chat(
    model: Model = None,
    dtype: Dtype = None,
    adapter: Adapter = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object a turn, with the numbers.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print the numbers of each turn on stderr.")] = False,
    live: Annotated[bool, typer.Option("--live/--no-live", help="Show the canvas while it is denoised, on a terminal.")] = True,
    trace: Annotated[
        Path | None,
        typer.Option(
            "--trace",
            metavar="FILE",
            help="Write every step of each answer into a file of its own: for run.jsonl, run-1.jsonl and so on.",
            show_default=False,
        ),
    ] = None,
    tuned: Tuned = True,
    yes: Yes = False,
    *,
    config: GenerationConfig,
) -> int:
    """Talk to a model, turn by turn.

    A line is a message; three quotes open and close one of several lines, and a backslash at the end goes on to the next.
    /help lists the commands. Ctrl-C stops an answer and keeps what is finished; Ctrl-D leaves. Turns that no longer fit
    into the model's context are left out, the oldest first. Piped text is a script: a turn a line, answers on stdout, and
    the first error ends it.

    Example: diffucode chat -m pocket --max-tokens 64

    Example: diffucode chat -m pocket --json < turns.txt | jq .text
    """
    if config.raw:
        raise ConfigError("raw goes without the chat template, and a chat is made of it; use generate", field="raw")
    if trace:
        from ..trace.writer import check_trace
        from .conversation import numbered

        check_trace(numbered(trace))
    from .chat_input import Lines, history
    from .model_option import load_named

    lines = Lines()
    name, network, tokenizer = load_named(model, yes=yes, dtype=dtype, adapter=adapter)
    from .conversation import Conversation
    from .tuning import tuned as with_tuned

    config = with_tuned(config, network, wanted=tuned, verbose=verbose)

    if lines.typed:
        print(f"{name}: /help lists the commands, Ctrl-D leaves", file=sys.stderr)
    with history(lines.typed):
        talk = Conversation(name, network, tokenizer, config, lines, as_json=as_json, verbose=verbose, live=live, trace=trace)
        return talk.go()
