"""The options that several commands share, each declared once.

A command lists the options it takes in its own signature, and `decoding_config` reads those that decide how to decode:

    @app.command(cls=Command)
    def generate(context: typer.Context, model: Model = None, max_tokens: MaxTokens = 256, temperature: Temperature = 0.0) -> int:
        config = decoding_config(context)
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from ..choices import RULES, WINDOWS
from ..config import ALGORITHMS, PRESETS, GenerationConfig
from ..errors import ExecutionError
from .settings import DTYPES, Settings

MODEL, DECODING, OUTPUT, ADVANCED = "Model", "Decoding", "Output", "Advanced"
"""The panels of a command's help."""


def among(names: Iterable[str]) -> Callable[[str], list[str]]:
    """Completes the beginning of one of some names in the shell."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in names if name.startswith(incomplete)]

    return complete


def complete_model(incomplete: str) -> list[str]:
    """The bundled model, the default one, and those in the Hub's cache."""
    from ..loading import known_models

    return among(known_models())(incomplete)


# Model

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help='A folder, a Hub id, or "pocket" (bundled).',
        show_default="DIFFUCODE_MODEL, or the 8-bit DiffuCoder-7B-cpGRPO",
        autocompletion=complete_model,
        rich_help_panel=MODEL,
    ),
]
Adapter = Annotated[
    Path | None,
    typer.Option("--adapter", help="The folder of an adapter for the model.", show_default=False, rich_help_panel=MODEL),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        help="Compute in float32, float16 or bfloat16.",
        show_default="the weights' type; on a CPU float32 if it takes at most half of the memory",
        autocompletion=among(DTYPES),
        rich_help_panel=MODEL,
    ),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Download without asking.", rich_help_panel=MODEL)]

# Decoding

Preset = Annotated[
    str | None,
    typer.Option(
        "--preset",
        help=f"A rule and a window by name: {', '.join(PRESETS)}. Explicit options override it.",
        show_default="balanced; exact with a schedule option",
        autocompletion=among(PRESETS),
        rich_help_panel=DECODING,
    ),
]
Rule = Annotated[
    str,
    typer.Option(
        "--rule",
        help=f"How many tokens to commit in a step: {', '.join(RULES)}. See diffucode rules.",
        show_default="the preset's",
        autocompletion=among(RULES),
        rich_help_panel=DECODING,
    ),
]
Window = Annotated[
    str,
    typer.Option(
        "--window",
        help=f"Which positions to compute in a step: {', '.join(WINDOWS)}. See diffucode rules.",
        show_default="the preset's",
        autocompletion=among(WINDOWS),
        rich_help_panel=DECODING,
    ),
]
MaxTokens = Annotated[int, typer.Option("--max-tokens", help="The longest answer, in tokens.", rich_help_panel=DECODING)]
Temperature = Annotated[
    float, typer.Option("--temp", help="0 takes the most probable token; above 0 draws one.", rich_help_panel=DECODING)
]
TopP = Annotated[float, typer.Option("--top-p", help="Keep the most probable tokens up to this total.", rich_help_panel=DECODING)]
TopK = Annotated[int, typer.Option("--top-k", help="Keep the k most probable tokens; 0 keeps all.", rich_help_panel=DECODING)]
Seed = Annotated[int | None, typer.Option("--seed", help="Repeat a draw exactly.", rich_help_panel=DECODING)]
System = Annotated[str | None, typer.Option("--system", help="The system message.", rich_help_panel=DECODING)]
Prefill = Annotated[
    str, typer.Option("--prefill", help="Text the answer starts with.", show_default=False, rich_help_panel=DECODING)
]
Until = Annotated[
    list[str] | None, typer.Option("--until", help="End the answer before this text; repeatable.", rich_help_panel=DECODING)
]
BanTokens = Annotated[
    list[str] | None,
    typer.Option("--ban-token", help="Never write this token, given as text or id; repeatable.", rich_help_panel=DECODING),
]

# Advanced

Raw = Annotated[
    bool,
    typer.Option("--raw", help="Use the prompt as it is: no chat template, special tokens act.", rich_help_panel=ADVANCED),
]
Steps = Annotated[
    int | None,
    typer.Option("--steps", help="Schedule: denoising steps.", show_default="one for each token", rich_help_panel=ADVANCED),
]
Algorithm = Annotated[
    str,
    typer.Option(
        "--alg",
        help=f"The score that decides what to commit first: {', '.join(ALGORITHMS)}.",
        autocompletion=among(ALGORITHMS),
        rich_help_panel=ADVANCED,
    ),
]
AlgorithmTemperature = Annotated[
    float, typer.Option("--alg-temp", help="Schedule: above 0 draws the positions to commit.", rich_help_panel=ADVANCED)
]
Eps = Annotated[float, typer.Option("--eps", help="Schedule: where its timesteps end.", rich_help_panel=ADVANCED)]
Reference = Annotated[
    bool, typer.Option("--reference", help="Decode exactly as the reference decoder does.", rich_help_panel=ADVANCED)
]
Tuned = Annotated[
    bool,
    typer.Option("--tuned/--no-tuned", help="Use the window width that bench tune stored.", rich_help_panel=ADVANCED),
]
AllowCodeExecution = Annotated[
    bool,
    typer.Option("--allow-code-execution", help="Run code the model writes on this machine, without a sandbox."),
]

# Output

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.", rich_help_panel=OUTPUT)]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Print the numbers on stderr.", rich_help_panel=OUTPUT)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing on stderr but errors.", rich_help_panel=OUTPUT)]
Live = Annotated[
    bool, typer.Option("--live/--no-live", help="Show the canvas on a terminal while it is denoised.", rich_help_panel=OUTPUT)
]
TraceOut = Annotated[
    Path | None,
    typer.Option(
        "--trace",
        metavar="FILE",
        help="Write every step into this file, for diffucode trace.",
        show_default=False,
        rich_help_panel=OUTPUT,
    ),
]


def require_code_execution(allowed: bool, what: str) -> None:
    """Raise `ExecutionError` unless the user agreed to run what a model writes.

    Args:
        what: the command or option that runs it.
    """
    if not allowed:
        raise ExecutionError(
            f"{what} runs the model's code on this machine, as you, with limits on time and memory but without a sandbox;"
            " if you accept that, add --allow-code-execution"
        )


DECODING_FIELDS = tuple(one.name for one in fields(GenerationConfig))


def decoding_config(
    context: typer.Context, usual: Mapping[str, Any] | None = None, names: Collection[str] = DECODING_FIELDS
) -> GenerationConfig:
    """The configuration that a command's decoding options ask for.

    Reads the command's `preset` and every parameter that is named as a field of `GenerationConfig`.

    Args:
        usual: the command's own values for fields that the user does not set.
        names: the fields to read, where a parameter of that name means another thing in this command.

    Raises:
        ConfigError: a value that cannot work, or values that do not go together.
    """
    usual, chosen = usual or {}, dict[str, Any]()
    given = Settings.of(context).chosen(context, ["preset", *names])
    for name in names:
        if name in given:
            value = context.params[name]
            chosen[name] = LISTS[name](value or ()) if name in LISTS else value
    if "preset" in given:
        preset = str(context.params["preset"])
        return GenerationConfig.preset(preset, **{**usual, **PRESETS.get(preset, {}), **chosen})
    return GenerationConfig(**{**usual, **chosen})


def wants_tuned(context: typer.Context, tuned: bool) -> bool:
    """Whether to use a stored window width: not with `--no-tuned`, nor when the user names a window."""
    return tuned and "window" not in Settings.of(context).chosen(context, ["preset", *DECODING_FIELDS])


def _token(given: str) -> str | int:
    """A token for `--ban-token`: a whole number is an id."""
    return int(given) if given.isascii() and given.isdigit() else given


LISTS: Mapping[str, Callable[[Iterable[str]], tuple[Any, ...]]] = {
    "until": tuple,
    "ban_tokens": lambda given: tuple(map(_token, given)),
}
"""Fields whose options can be given more than once."""
