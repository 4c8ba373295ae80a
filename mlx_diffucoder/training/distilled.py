"""What distillation won, and what it lost elsewhere: the model without and with its adapter, on prompts kept aside."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..config import GenerationConfig
from ..data import Text
from .batches import Batches
from .distill import Decoded, DistillPlan, decoded, share_same, tiles_of
from .grpo import Prompt
from .learners import Learner, without_adapter
from .objective import loss
from .rollouts import rewards_of
from .settings import TrainSettings

TAUS = (0.8, 0.9, 0.95, 0.98, 1.0)
"""What to choose from."""
BALANCED = 0.95  # the preset's threshold
ONE_A_STEP: Mapping[str, Any] = {"rule": "schedule", "window": "whole"}


def compared(
    learner: Learner, plan: DistillPlan, valid: Sequence[Prompt], greedy: Sequence[list[int]], base: Learner | None = None
) -> dict[str, dict[str, float]]:
    """The numbers `before` and `after`.

    `tau`, of the rule: before that of the preset `balanced`. An adapter makes masks surer than they should be, so after training
    it is the lowest of `TAUS` with which as many answers stay those of the base as before, or 1. With it `tiles` of 32 rows a
    useful token; `same`, the share of answers that are the greedy text of the base; `passed`, the share that passes its
    tests. `verified_tiles`, the tiles with a tau of 1; `passed_one_a_step`, by the schedule of one token a step; `loss`
    and `infill_loss`, the bounds of the negative log-likelihood of the greedy texts and of holes in them, nats a token.

    Args:
        greedy: the greedy text of the base for each prompt.
        base: None where it is the model without its adapter.
    """
    learner.model.eval()
    with without_adapter(learner.model):
        balanced = GenerationConfig.preset("balanced", max_tokens=plan.max_tokens)
        before = _numbers(base or learner, plan, valid, greedy, {BALANCED: balanced})
    decodings = {tau: plan.decoding(tau) for tau in TAUS}
    return {"before": before, "after": _numbers(learner, plan, valid, greedy, decodings, least=before["same"])}


def _numbers(
    learner: Learner,
    plan: DistillPlan,
    valid: Sequence[Prompt],
    greedy: Sequence[list[int]],
    decodings: Mapping[float, GenerationConfig],
    least: float = 0.0,
) -> dict[str, float]:
    """The numbers of the model as it is, by the first decoding with which the share `least` of answers stays that of the base."""

    def passed(found: Sequence[Decoded]) -> float:
        tested = [(one.task, answer.answer) for one, answer in zip(valid, found, strict=True) if one.task.tests]
        return sum(one.passed for one in rewards_of(tested, plan.limits)) / max(1, len(tested))

    model, tokenizer = learner.model, learner.tokenizer
    verified = decoded(model, tokenizer, valid, plan.decoding())
    for tau, decoding in decodings.items():
        found = decoded(model, tokenizer, valid, decoding) if tau < 1 else verified
        if (same := share_same(found, greedy)) >= least:
            break
    slow = decoded(model, tokenizer, valid, replace(plan.decoding(), **ONE_A_STEP))
    texts = [Text(np.array(one.ids, np.int32), np.array(ids, np.int32)) for one, ids in zip(valid, greedy, strict=True) if ids]
    return {
        "tau": tau,
        "tiles": tiles_of(found),
        "same": same,
        "passed": passed(found),
        "verified_tiles": tiles_of(verified),
        "passed_one_a_step": passed(slow),
        "loss": _loss(learner, texts, infill=0.0),
        "infill_loss": _loss(learner, texts, infill=1.0),
    }


def _loss(learner: Learner, texts: Sequence[Text], infill: float) -> float:
    settings = TrainSettings(steps=1, batch_size=8, max_length=max(map(len, texts)) + 32, infill=infill, canvas="longest")
    batches = Batches(texts, learner.tokenizer, settings)
    return sum(float(loss(learner.model, *one.arrays())) for one in batches.draw(0, batches.per_epoch))
