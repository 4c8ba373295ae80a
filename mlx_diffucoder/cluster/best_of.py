"""`diffucode generate -n` over several machines: each answer is written, and its code run, on one of them."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from ..best_of import Ranking, best_of, check_count
from ..config import GenerationConfig
from ..decoding.sampling import seed_of_copy
from ..errors import ConfigError
from ..evaluation import Limits
from ..tasks import Task
from .machines import Machines
from .models import ModelRef, loaded


def spread_best_of(
    machines: Machines,
    model: ModelRef,
    prompt: Sequence[int],
    config: GenerationConfig,
    count: int,
    tests: tuple[Task, Mapping[str, Any]] | None,
    advance: Callable[[float], None],
) -> Ranking:
    """As `best_of`, with the same answers. They share no forwards.

    Args:
        tests: a task, and its limits from `evaluation.limits_there`, where its tests are run on the answers.
        advance: called with 1 for each answer.

    Raises:
        ConfigError: as `best_of`; or the reference decoder, which draws for a whole batch, is asked for.
    """
    check_count(config, count)
    if config.reference:
        raise ConfigError("--reference decodes the answers together; remove it, or --cluster", field="--reference")
    seed = secrets.randbits(64) if config.seed is None else config.seed
    configs = [replace(config, seed=seed_of_copy(seed, copy)) for copy in range(count)]
    found: dict[int, Ranking] = {}
    for place, ranking in machines.results([partial(_ranked, model, list(prompt), one, tests) for one in configs]):
        found[place] = ranking
        advance(1)
    return Ranking.joined([found[place] for place in range(count)])


def _ranked(ref: ModelRef, prompt: list[int], config: GenerationConfig, tests: tuple[Task, Mapping[str, Any]] | None) -> Ranking:
    """One answer, on a worker."""
    ranking = best_of(*loaded(ref), prompt, config, 1)
    return ranking.tested(tests[0], Limits(**tests[1])) if tests else ranking
