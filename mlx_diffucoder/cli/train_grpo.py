"""The flags of `diffucode train --method coupled-grpo`, and which flags go with which method."""

import functools
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config import PRESETS, GenerationConfig
from ..errors import ExecutionError, TrainError, one_of
from ..training.grpo_settings import GrpoSettings
from .command import option_name
from .options import Rule, Window, among, decoding_config
from .settings import METHODS

if TYPE_CHECKING:
    from ..training.grpo_job import Asked, GrpoJob
    from ..training.learners import Learner
    from ..training.settings import TrainSettings

OF_SFT = (
    "from_scratch",
    "tokenizer",
    "dropout",
    "accumulate",
    "max_length",
    "canvas",
    "objective",
    "infill",
    "least_t",
    "prefixes",
    "padding",
    "smoothing",
    "skip_long",
)
"""Parameters that mean nothing to coupled-grpo: its canvases are those of its answers, and two forwards of the same
weights must agree."""
DECODING = ("max_tokens", "temperature", "top_p", "rule", "window")


def asked(
    context: typer.Context,
    group: Annotated[int, typer.Option(help="coupled-grpo: answers to a prompt, compared with each other.")] = GrpoSettings.group,
    prompts_per_step: Annotated[
        int, typer.Option(help="coupled-grpo: prompts that are answered at a time.")
    ] = GrpoSettings.prompts_per_step,
    updates: Annotated[
        int, typer.Option(help="coupled-grpo: optimizer steps that learn from the same answers.")
    ] = GrpoSettings.updates,
    clip_ratio: Annotated[
        float, typer.Option(help="coupled-grpo: how far from 1 a ratio of probabilities counts.")
    ] = GrpoSettings.clip_ratio,
    kl: Annotated[float, typer.Option(help="coupled-grpo: weight of the KL to the model as it began.")] = GrpoSettings.kl,
    format_reward: Annotated[
        float, typer.Option(help="coupled-grpo: what a well-formed answer earns; one that passes earns 1 more.")
    ] = GrpoSettings.format_reward,
    temperature: Annotated[float, typer.Option("--temp", help="coupled-grpo: the answers' temperature.")] = 1.0,
    top_p: Annotated[float, typer.Option(help="coupled-grpo: drop tokens past this probability.")] = GenerationConfig.top_p,
    max_tokens: Annotated[int, typer.Option(help="coupled-grpo: the longest answer, in tokens.")] = GenerationConfig.max_tokens,
    preset: Annotated[
        str | None,
        typer.Option(
            help=f"coupled-grpo: rule and window of the decoder: {', '.join(PRESETS)}.",
            autocompletion=among(PRESETS),
            show_default="balanced",
        ),
    ] = None,
    rule: Rule = "auto",
    window: Window = "auto",
    timeout: Annotated[float, typer.Option(help="coupled-grpo: seconds for each program.")] = 5.0,
    memory: Annotated[int, typer.Option(help="coupled-grpo: MB for each program; macOS ignores it.")] = 1024,
    allow_code_execution: Annotated[
        bool,
        typer.Option("--allow-code-execution", help="Run the model's code here, without a sandbox.", rich_help_panel="Advanced"),
    ] = False,
) -> "Asked":
    """What the flags ask for. Raises `TrainError` and `ConfigError`, and `ExecutionError` where no code may be run."""
    if not allow_code_execution:
        raise ExecutionError(
            "coupled-grpo runs the code that the model writes on this machine, as you, within limits of time and memory but in"
            " no sandbox; if you accept that, add --allow-code-execution"
        )
    decoding = decoding_config(context, {"temperature": temperature, "max_tokens": max_tokens}, DECODING)
    grpo = GrpoSettings(
        group=group,
        prompts_per_step=prompts_per_step,
        updates=updates,
        clip_ratio=clip_ratio,
        kl=kl,
        format_reward=format_reward,
    )
    from ..evaluation import Limits
    from ..training.grpo_job import Asked

    return Asked(grpo=grpo, decoding=decoding, limits=Limits(timeout=timeout, memory=memory))


def by_method(verb: Callable[..., int]) -> Callable[..., int]:
    """Replace the parameter `asked` of a verb by the flags of coupled-grpo; it is None with another method."""
    signature = inspect.signature(verb)
    own = [parameter for name, parameter in signature.parameters.items() if name != "asked"]
    context, *flags = inspect.signature(asked).parameters.values()
    names = [flag.name for flag in flags]

    @functools.wraps(verb)
    def with_flags(context: typer.Context, method: str, **given: Any) -> int:
        values = {name: given.pop(name) for name in names}
        if method not in METHODS:
            raise TrainError(f"method must be {one_of(METHODS, method)}", field="method")
        rewarded = method == "coupled-grpo"
        _refuse(context, OF_SFT if rewarded else names, METHODS[not rewarded])
        return verb(method=method, asked=asked(context, **values) if rewarded else None, **given)

    parameters = [context, *own, *flags]
    with_flags.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    with_flags.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return with_flags


def _refuse(context: typer.Context, parameters: Sequence[str], method: str) -> None:
    for name in parameters:
        source = context.get_parameter_source(name)
        if source is not None and source.name == "COMMANDLINE":
            raise TrainError(f"{option_name(name)} is for --method {method}")


def grpo_job(
    learner: "Learner",
    settings_of: Callable[[int], "TrainSettings"],
    asked: "Asked",
    data: tuple[Path, Path | None],
    steps: int | None,
    epochs: float | None,
    *,
    gradient_checkpointing: bool,
) -> "GrpoJob":
    """A run on the tasks of files; without steps it answers each `epochs` times. Raises as `read_prompts`."""
    from ..training.grpo_job import GrpoJob, read_prompts

    train, valid = (read_prompts(file, learner, asked.decoding) if file else [] for file in data)
    if steps is None:
        rounds = (epochs or 1) * len(train) / asked.grpo.prompts_per_step
        steps = max(1, round(rounds * asked.grpo.updates))
    return GrpoJob.of(learner, settings_of(steps), asked, train, valid, gradient_checkpointing=gradient_checkpointing)
