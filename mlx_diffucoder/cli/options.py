"""The options that several commands share, each declared once.

A command lists the options it takes in its own signature, and `decoding_config` reads those that decide how to decode:

    @app.command(cls=Command)
    def generate(context: typer.Context, model: Model = None, seed: Seed = None, temperature: Temperature = 0.0) -> int:
        config = decoding_config(context)
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..choices import RULES, WINDOWS
from ..config import ALGORITHMS, PRESET_NAMES, PRESETS, PUBLISHED, GenerationConfig
from ..errors import ConfigError, ExecutionError
from .command import options_of
from .settings import DTYPES, Settings
from .terminal import note

if TYPE_CHECKING:
    from ..evaluation import Limits


def panel(name: str) -> Callable[..., Any]:
    """As `typer.Option`, for the options in one panel of the help."""
    return partial(typer.Option, rich_help_panel=name)


in_model, in_decoding, in_output, in_advanced = map(panel, ("Model", "Decoding", "Output", "Advanced"))


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
    in_model(
        "--model",
        "-m",
        help='A folder, a Hub id, "pocket" (bundled), or a name from diffucode models.',
        show_default="DIFFUCODE_MODEL, or the 8-bit DiffuCoder-7B-cpGRPO",
        autocompletion=complete_model,
    ),
]
Adapter = Annotated[str | None, in_model(help="An adapter for the model: a folder, or a Hub id as OWNER/NAME@REVISION.")]
Dtype = Annotated[
    str | None,
    in_model(
        help="Compute in float32, float16 or bfloat16.",
        show_default="the weights' type; on a CPU float32 if it takes at most half of the memory; on M1 and M2 float16",
        autocompletion=among(DTYPES),
    ),
]
Revision = Annotated[str | None, in_model(help="The branch, tag or commit on the Hub, as OWNER/NAME@REVISION.")]
Refresh = Annotated[bool, in_model("--refresh", help="Ask the Hub for a newer version of a cached model.")]
Yes = Annotated[bool, in_model("--yes", "-y", help="Download without asking, and load what is too large for the memory.")]

SHARDS = ("tensor", "sequence")
Shard = Annotated[
    str | None,
    in_model(
        help="Let the processes of mlx.launch compute one model: tensor or sequence.",
        autocompletion=among(SHARDS),
    ),
]

# Decoding

Preset = Annotated[
    str | None,
    in_decoding(
        help=f"A rule and a window by name: {', '.join(PRESET_NAMES)}. Explicit options override it.",
        show_default="balanced; exact with a schedule option",
        autocompletion=among(PRESET_NAMES),
    ),
]
Rule = Annotated[
    str,
    in_decoding(
        help=f"How many tokens to commit in a step: {', '.join(RULES)}. See diffucode rules.",
        show_default="the preset's",
        autocompletion=among(RULES),
    ),
]
Window = Annotated[
    str,
    in_decoding(
        help=f"Which positions to compute in a step: {', '.join(WINDOWS)}. See diffucode rules.",
        show_default="the preset's",
        autocompletion=among(WINDOWS),
    ),
]
MaxTokens = Annotated[int, in_decoding(help="The longest answer, in tokens.")]
UsualMaxTokens = Annotated[
    int | None,
    in_decoding(
        "--max-tokens", help="The longest answer, in tokens.", show_default="768; 256 on windows that compute the whole canvas"
    ),
]
Temperature = Annotated[float, in_decoding("--temp", help="0 takes the most probable token; above 0 draws one.")]
TopP = Annotated[float, in_decoding(help="Keep the most probable tokens up to this total.")]
TopK = Annotated[int, in_decoding(help="Keep the k most probable tokens; 0 keeps all.")]
Seed = Annotated[int | None, in_decoding(help="Repeat a draw exactly.")]
System = Annotated[str | None, in_decoding(help="The system message.")]
Prefill = Annotated[str, in_decoding(help="Text the answer starts with.", show_default=False)]
Until = Annotated[list[str] | None, in_decoding(help="End the answer before this text; repeatable.")]
BanTokens = Annotated[
    list[str] | None, in_decoding("--ban-token", help="Never write this token, given as text or id; repeatable.")
]

# Advanced

Raw = Annotated[bool, in_advanced("--raw", help="Use the prompt as it is: no chat template, special tokens act.")]
Steps = Annotated[int | None, in_advanced(help="Schedule: denoising steps.", show_default="one for each token")]
Algorithm = Annotated[
    str,
    in_advanced(
        help=f"The score that decides what to commit first: {', '.join(ALGORITHMS)}.",
        show_default="entropy; maskgit_plus for block-causal models",
        autocompletion=among(ALGORITHMS),
    ),
]
AlgorithmTemperature = Annotated[float, in_advanced(help="Schedule: above 0 draws the positions to commit.")]
Eps = Annotated[float, in_advanced(help="Schedule: where its timesteps end.")]
Reference = Annotated[bool, in_advanced("--reference", help="Decode exactly as the reference decoder does.")]
Tuned = Annotated[bool, in_advanced("--tuned/--no-tuned", help="Use the rule and the window that bench tune stored.")]
CODE_EXECUTION = "Run code the model writes on this machine."
SANDBOX = "Run it in a sandbox: require, auto (where one works) or off."
SANDBOXES = ("require", "auto", "off")
AllowCodeExecution = Annotated[bool, typer.Option("--allow-code-execution", help=CODE_EXECUTION)]
Sandbox = Annotated[str, typer.Option(help=SANDBOX, autocompletion=among(SANDBOXES))]

# Output

Json = Annotated[bool, in_output("--json", help="Print one JSON object.")]
Verbose = Annotated[bool, in_output("--verbose", "-v", help="Print the numbers on stderr.")]
Tile = Annotated[int, in_output(min=1, help="Count the tiles of forwards as for a GPU with so many rows in a tile.")]
Quiet = Annotated[bool, in_output("--quiet", "-q", help="Print nothing on stderr but errors.")]
Live = Annotated[bool, in_output("--live/--no-live", help="Show the canvas on a terminal while it is denoised.")]
TraceOut = Annotated[Path | None, in_output(metavar="FILE", help="Write every step into this file, for diffucode trace.")]


def refuse_idle(context: typer.Context, needed: str, parameters: Collection[str], *, given: bool) -> None:
    """Raise `ConfigError` for an option on the command line that has no effect without another.

    Defaults of the user are left out: they are for every run. So are options that permit something.

    Args:
        needed: the other option, in words.
        parameters: names of the options that need it, as the function has them.
        given: whether the other is given.
    """
    for option in options_of(context.command) if not given else ():
        source = context.get_parameter_source(option.parameter)
        if option.parameter in parameters and source is not None and source.name == "COMMANDLINE":
            name = next((name for name in option.names if name.startswith("--")), option.names[0])
            raise ConfigError(f"{name} has no effect without {needed}; add it, or remove {name}", field=name)


def limits_of(given: Mapping[str, Any]) -> "Limits":
    """The limits of programs, by a command's parameters. Call `tell_sandbox` before one runs.

    Raises:
        ConfigError: a value is out of range.
        ExecutionError: a sandbox is required, and none works here.
    """
    from ..evaluation import Limits

    return Limits(**{name: given[name] for name in ("timeout", "memory", "sandbox") if name in given})


def tell_sandbox(limits: "Limits", given: Mapping[str, Any]) -> None:
    """Say on stderr if `auto` has found no sandbox."""
    from ..evaluation.execute import ADVICE, sandbox_missing

    if limits.sandbox == "off" and given["sandbox"] == "auto":
        note(f"note: no sandbox works here ({sandbox_missing()}), so the model's code runs as you; {ADVICE}")


def require_code_execution(allowed: bool, what: str) -> None:
    """Raise `ExecutionError` unless the user agreed to run what a model writes.

    Args:
        what: the command or option that runs it.
    """
    if not allowed:
        raise ExecutionError(
            f"{what} runs the model's code on this machine, in a sandbox if one works here (diffucode doctor tells) and else as"
            " you; if you accept that, add --allow-code-execution",
            field="--allow-code-execution",
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
        own = PRESETS.get("exact" if preset == PUBLISHED else preset, {})
        return GenerationConfig.preset(preset, **{**{name: usual[name] for name in usual if name not in own}, **chosen})
    return GenerationConfig(**{**usual, **chosen})


def _token(given: str) -> str | int:
    """A token for `--ban-token`: a whole number is an id."""
    return int(given) if given.isascii() and given.isdigit() else given


LISTS: Mapping[str, Callable[[Iterable[str]], tuple[Any, ...]]] = {
    "until": tuple,
    "ban_tokens": lambda given: tuple(map(_token, given)),
}
"""Fields whose options can be given more than once."""
