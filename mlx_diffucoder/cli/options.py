"""The flags that several verbs have: the model, and how to decode.

A verb that decodes declares one parameter, `config: GenerationConfig`; `decodes` puts the flags in its place.
Their defaults are the configuration's own.
"""

import functools
import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import typer

from ..choices import RULES, WINDOWS, describe
from ..config import ALGORITHMS, PRESETS, GenerationConfig
from ..errors import ConfigError
from . import completion

Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        show_default="DIFFUCODE_MODEL, or the 8-bit DiffuCoder-7B-cpGRPO",
        autocompletion=completion.model,
        help='A folder, a Hub id, or "pocket" (bundled).',
    ),
]
Dtype = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        autocompletion=completion.dtype,
        help="Compute in float32, float16 or bfloat16.",
        show_default="that of the weights",
    ),
]
TraceOut = Annotated[
    Path | None,
    typer.Option(
        "--trace", metavar="FILE", help="Write every step into this file; diffucode trace shows it.", show_default=False
    ),
]
Tuned = Annotated[
    bool, typer.Option("--tuned/--no-tuned", help="Where no --window is given, the width that bench --tune stored.")
]
Adapter = Annotated[Path | None, typer.Option("--adapter", help="The folder of an adapter of the model.", show_default=False)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Download without asking.")]

# Field -> (flag, help); the flag is None where it is the field's name.
FLAGS: dict[str, tuple[str | None, str]] = {
    "max_tokens": (None, "The longest answer, in tokens."),
    "steps": (None, "Denoising steps; one a token if not given."),
    "alg": (None, f"What is committed first: {', '.join(ALGORITHMS)}."),
    "temperature": ("--temp", "Temperature; 0 takes the most probable token."),
    "top_p": (None, "Nucleus: drop tokens past this probability."),
    "top_k": (None, "Keep the k most probable tokens; 0 keeps all."),
    "alg_temp": (None, "Above 0: draw the positions to commit."),
    "eps": (None, "Where the schedule's timesteps end."),
    "seed": (None, "Makes a draw repeatable."),
    "raw": (None, "No chat template; special tokens in the prompt count."),
    "system": (None, "System message."),
    "rule": (None, f"How many are committed in a step: {', '.join(describe(RULES))}."),
    "window": (None, f"What is forwarded: {', '.join(describe(WINDOWS))}."),
    "prefill": (None, "The answer starts with this text."),
    "until": (None, "The answer ends before this text; repeatable."),
    "ban_tokens": ("--ban-token", "Never write this token, its text or id; repeatable."),
    "reference": (None, "The reference decoder to the letter, its quirks too."),
}


def flag_of(field: str) -> str:
    """`max_tokens` -> `--max-tokens`."""
    return FLAGS.get(field, (None, ""))[0] or "--" + field.replace("_", "-")


def decodes(
    verb: Callable[..., int], usual: Mapping[str, Any] | None = None, without: Collection[str] = ()
) -> Callable[..., int]:
    """Replace the parameter `config` of a verb by a flag for each field of `GenerationConfig`.

    Args:
        usual: other defaults.
        without: fields that have no flag here.
    """
    signature = inspect.signature(verb, eval_str=True)
    own = [parameter for name, parameter in signature.parameters.items() if name not in ("config", "context")]
    usual = usual or {}
    defaults = GenerationConfig(**usual)
    wanted = [field for field in fields(GenerationConfig) if field.name not in without]
    names = [field.name for field in wanted]
    flags = [_flag(field.name, field.type, getattr(defaults, field.name)) for field in wanted]

    @functools.wraps(verb)
    def with_flags(context: typer.Context, preset: str | None, **given: Any) -> int:
        if context.invoked_subcommand is not None:  # a verb below this one, which does its own work
            _refuse_flags(context)
            return 0
        from .settings import Settings

        values = {name: given.pop(name) for name in names}
        values |= {"until": tuple(values.get("until") or ()), "ban_tokens": _tokens(values["ban_tokens"])}
        keys = {name: flag_of(name).removeprefix("--").replace("-", "_") for name in names}
        said = Settings.of(context).said(context, ["preset", *names], keys)
        chosen = {name: value for name, value in values.items() if name in said}
        if "window" in chosen and "tuned" in given:
            given["tuned"] = False
        if "preset" in said:
            config = GenerationConfig.preset(str(preset), **{**usual, **PRESETS.get(str(preset), {}), **chosen})
        else:
            config = GenerationConfig(**{**usual, **chosen})
        return verb(config=config, **given, **({"context": context} if "context" in signature.parameters else {}))

    preset = typer.Option(
        "--preset",
        autocompletion=completion.preset,
        show_default="balanced; exact with a flag of the schedule",
        help=f"Rule and window: {', '.join(PRESETS)}; a flag given goes before.",
    )
    parameters = [
        inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
        *own[:1],
        inspect.Parameter(
            "preset", inspect.Parameter.POSITIONAL_OR_KEYWORD, default=None, annotation=Annotated[str | None, preset]
        ),
        *flags,
        *own[1:],
    ]
    with_flags.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_flags.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_flags


def _refuse_flags(context: typer.Context) -> None:
    stray = [name for name in context.params if context.get_parameter_source(name).name == "COMMANDLINE"]  # type: ignore[union-attr]
    if stray:
        raise ConfigError(f"{flag_of(stray[0])} is not for {context.command_path} {context.invoked_subcommand}")


SEVERAL = ("until", "ban_tokens")
"""Fields whose flags are repeatable."""


def _tokens(given: list[str] | None) -> tuple[str | int, ...]:
    """What `--ban-token` was given; a whole number is an id."""
    return tuple(int(one) if one.isascii() and one.isdigit() else one for one in given or ())


def _flag(name: str, kind: Any, default: Any) -> inspect.Parameter:
    if name in SEVERAL:
        kind, default = list[str] | None, None
    offered = completion.FIELDS.get(name)
    option = typer.Option(flag_of(name), autocompletion=offered, help=FLAGS[name][1], show_default=default not in (None, ""))
    return inspect.Parameter(name, inspect.Parameter.POSITIONAL_OR_KEYWORD, default=default, annotation=Annotated[kind, option])
