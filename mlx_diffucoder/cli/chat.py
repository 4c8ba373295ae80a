"""`diffucode chat`: many turns with one model."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ..errors import ConfigError
from .command import Command, examples
from .options import (
    OUTPUT,
    Adapter,
    Algorithm,
    AlgorithmTemperature,
    BanTokens,
    Dtype,
    Eps,
    Live,
    MaxTokens,
    Model,
    Prefill,
    Preset,
    Quiet,
    Raw,
    Reference,
    Rule,
    Seed,
    Steps,
    System,
    Temperature,
    TopK,
    TopP,
    Tuned,
    Until,
    Verbose,
    Window,
    Yes,
    decoding_config,
    wants_tuned,
)

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
    model: Model = None,
    dtype: Dtype = None,
    adapter: Adapter = None,
    yes: Yes = False,
    preset: Preset = None,
    rule: Rule = "auto",
    window: Window = "auto",
    max_tokens: MaxTokens = 256,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    seed: Seed = None,
    system: System = None,
    prefill: Prefill = "",
    until: Until = None,
    ban_tokens: BanTokens = None,
    raw: Raw = False,
    steps: Steps = None,
    alg: Algorithm = "entropy",
    alg_temp: AlgorithmTemperature = 0.0,
    eps: Eps = 1e-3,
    reference: Reference = False,
    tuned: Tuned = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for each turn.", rich_help_panel=OUTPUT)] = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    live: Live = True,
    trace: Annotated[
        Path | None,
        typer.Option(
            "--trace",
            metavar="FILE",
            help="Write the steps of each answer into a file: run-1.jsonl, run-2.jsonl and so on for run.jsonl.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
) -> int:
    """Talk to a model, turn by turn.

    A line is a message; three quotes open and close one of several lines, and a backslash at the end goes on to the next.
    /help lists the commands. Ctrl-C stops an answer and keeps what is finished; Ctrl-D leaves. Turns that no longer fit
    into the model's context are left out, the oldest first. Piped text is a script: a turn a line, answers on stdout, and
    the first error ends it.
    """
    config = decoding_config(context)
    if config.raw:
        raise ConfigError("raw goes without the chat template, and a chat is made of it; use generate", field="raw")
    if trace:
        from ..trace.writer import check_trace
        from .conversation import numbered

        check_trace(numbered(trace))
    from .chat_input import Lines, history
    from .model_option import load_named, with_tuned_window

    lines = Lines()
    name, network, tokenizer = load_named(model, yes=yes, dtype=dtype, adapter=adapter)
    from .conversation import Conversation

    config = with_tuned_window(config, network, wanted=wants_tuned(context, tuned), verbose=verbose)

    if lines.typed:
        print(f"{name}: /help lists the commands, Ctrl-D leaves", file=sys.stderr)
    with history(lines.typed):
        talk = Conversation(name, network, tokenizer, config, lines, as_json=as_json, verbose=verbose, live=live, trace=trace)
        return talk.go()
