"""Fill the holes in a text, all together, with a model that sees both sides of each.

You need not give a length: `lengths` tries several and keeps the most probable text.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ..config import HOLES, GenerationConfig
from ..decoding.hole_layout import unwrapped
from ..device import synchronized
from ..errors import ConfigError
from ..models.transformer import DiffusionModel
from ..tokenizer import Tokenizer
from ..trace.writer import TraceWriter
from .context import Part, texts_and_lengths
from .lengths import resized, search
from .middle import fill_middles
from .repetition import trimmed
from .task import InfillTask

CONTEXT = 512
"""Tokens of the text shown on each side of a hole."""
TRIES = 8
"""Texts of different lengths that are compared."""


@dataclass(frozen=True, kw_only=True)
class Filled:
    """The texts of the holes.

    Attributes:
        holes: the text of each hole.
        score: the mean log-probability, in nats, of the tokens in the holes and of the first ones after each. It compares
            fillings of one text: larger is more probable.
        lengths: tokens in each hole, without an end token.
        tried: canvases that were denoised.
        kept: the canvas that was kept, counted from 1 in the order in which they were denoised.
        agreed: whether the model itself told where the texts end.
        seen: tokens of the text around the holes that the model saw.
        nfe: forwards, those for scores included.
        positions: positions forwarded in them.
        rows: as in `decoding.result.Step`, of the same forwards.
        useful_tokens: tokens in the holes, including the end tokens that the model wrote.
    """

    holes: list[str]
    score: float
    lengths: list[int]
    tried: int
    kept: int
    agreed: bool
    seen: int
    nfe: int
    positions: int
    rows: tuple[int, ...]
    useful_tokens: int


def infill(
    model: DiffusionModel,
    tokenizer: Tokenizer,
    prefix: str,
    suffix: str,
    config: GenerationConfig | None = None,
    *,
    instruction: str | None = None,
) -> str:
    """The text between `prefix` and `suffix`. See `fill` for the arguments and the errors."""
    return fill(model, tokenizer, [prefix, None, suffix], config, instruction=instruction).holes[0]


def fill(
    model: DiffusionModel,
    tokenizer: Tokenizer,
    parts: Sequence[Part],
    config: GenerationConfig | None = None,
    *,
    instruction: str | None = None,
    context: int = CONTEXT,
    tries: int = TRIES,
    trace: TraceWriter | None = None,
) -> Filled:
    """Fill all holes of a text together.

    Args:
        model: from `load`, and `tokenizer` with it.
        parts: texts with holes between them, such as `["def f(x):\\n", None, "\\n"]`. A hole is None, or its length in tokens.
        config: how to decode; `max_tokens` is the longest hole, 64 if it is not set. The default is `GenerationConfig(**HOLES)`.
        instruction: what to write, as a chat message before the text; with `raw`, as plain text.
        context: tokens of the text that the model sees on each side of a hole.
        tries: the most texts of different lengths that are compared. With 1 the model is taken at its word: it ends the text
            itself.
        trace: records the steps of all canvases, and which one was kept.

    Raises:
        PromptError: the parts are not texts with holes between them, are empty, or do not fit the model's context.
        ConfigError: the model's family cannot do it, the configuration is for answers, or `context` shows nothing of the text.
    """
    config = (config or GenerationConfig(**HOLES)).within(HOLES["max_tokens"])
    check_settings(config, instruction, context, tries)
    given = (model, tokenizer, *texts_and_lengths(parts), config, instruction, context, trace)
    with synchronized():
        if "infill" in model.family.cannot:
            return Filled(**fill_middles(*given))
        return _searched(InfillTask(*given), instruction, context, tries)


def _searched(task: InfillTask, instruction: str | None, context: int, tries: int) -> Filled:
    """The holes at their most probable lengths. The arguments are as for `fill`."""
    if instruction is None and not any(task.context.ids):
        raise ConfigError(f"context {context} shows the model nothing; raise it, or give an instruction", field="context")
    best, score, agreed = resized(task) if task.resizes else search(task, tries)
    best, score = trimmed(task, best, score)
    if task.trace:
        task.trace.kept = best.number
    shown, tokenizer = task.context, task.tokenizer
    return Filled(
        holes=[unwrapped(tokenizer.decode(ids), *ends) for ids, *ends in zip(best.ids, shown.leads, shown.tails, strict=True)],
        score=score,
        lengths=[len(ids) for ids in best.ids],
        tried=task.tried,
        kept=best.number,
        agreed=agreed,
        seen=sum(map(len, shown.ids)),
        nfe=task.nfe,
        positions=task.positions,
        rows=task.rows,
        useful_tokens=sum(map(len, best.ids)) + sum(best.ended),
    )


def check_settings(config: GenerationConfig, instruction: str | None, context: int, tries: int) -> None:
    """Raises `ConfigError` unless holes can be filled with these settings."""
    if config.reference:
        raise ConfigError("reference is a decoder for answers: it cannot fill holes", field="reference")
    for field in ("prefill", "until"):
        if getattr(config, field):
            raise ConfigError(f"{field} is for answers: a hole has text around it", field=field)
    if config.system is not None and instruction is None:
        raise ConfigError("system needs an instruction: without one there is no chat, only the text", field="system")
    if context < 0:
        raise ConfigError(f"context must be a whole number of 0 or more, not {context}", field="context")
    if tries < 1:
        raise ConfigError(f"tries must be a whole number of 1 or more, not {tries}", field="tries")
