"""Several answers to one prompt, denoised in one batch, the one first that the model finds the most probable."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .config import GenerationConfig
from .decoding.likelihood import every_second, log_probabilities
from .errors import ConfigError
from .generation import Answer, canvas_of, forbidden_ids, stream_batch, wired_memory
from .models.transformer import DiffusionModel
from .tokenizer import Tokenizer
from .trace.writer import Recording


@dataclass(frozen=True)
class Ranked:
    """An answer, the mean log-probability of its tokens, its end's included, and its row of the batch, from 1."""

    answer: Answer
    score: float
    row: int


@dataclass(frozen=True)
class Ranking:
    """Answers, the most probable first, and the forwards and positions that all of them, and their scores, took."""

    answers: list[Ranked]
    nfe: int
    positions: int


def ranked(
    model: DiffusionModel,
    tokenizer: Tokenizer,
    prompt: Sequence[int],
    config: GenerationConfig,
    count: int,
    record: Recording | None = None,
) -> Ranking:
    """Answer a prompt `count` times.

    Args:
        prompt: token ids, as `prompt_ids` gives them.
        record: writes the steps of all answers down; which of them is kept is the caller's to say.

    Raises:
        ConfigError: the answers would all be the same.
        PromptError: as `stream_generate`.
    """
    if count > 1 and config.temperature == 0 and not config.alg_temp and config.alg != "origin":
        raise ConfigError(f"temperature 0 gives the same answer {count} times; set it above 0", field="temperature")
    steps = stream_batch(model, tokenizer, [prompt] * count, config)
    if record:
        steps = record.batch(canvas_of(tokenizer, [prompt] * count, config), steps)
    *_, last = steps
    nfe, positions = last[0].nfe, count * last[0].positions
    forbidden = forbidden_ids(tokenizer, model.config.vocab_size, config.ban_tokens)
    found = []
    with wired_memory():
        for row, step in enumerate(last, start=1):
            answer = Answer.of(tokenizer, step, len(prompt), config)
            ids = step.tokens[: len(prompt) + answer.useful_tokens].tolist()
            masks = every_second(np.arange(max(1, len(prompt)), len(ids)))
            values = np.concatenate(log_probabilities(model, ids, masks, tokenizer.mask_id, forbidden))
            nfe, positions = nfe + 1, positions + len(masks) * len(ids)
            found.append(Ranked(answer, float(values.mean()) if len(values) else 0.0, row))
    found.sort(key=lambda one: -one.score)
    return Ranking(found, nfe, positions)
