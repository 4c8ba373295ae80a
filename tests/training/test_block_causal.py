"""Block-causal models: what they learn, in how much memory, and what their objective cannot be."""

import pytest

from mlx_diffucoder.errors import TrainError
from mlx_diffucoder.training.job import Data, supervised_job
from mlx_diffucoder.training.learners import Tuning, from_checkpoint
from mlx_diffucoder.training.settings import TrainSettings

from ..conftest import DATA
from .small import write_rows
from .test_memory import built, computed, measured
from .test_trainer import curve, run

FOLDER = DATA / "stable-diffcoder-a"


def job_of(folder, **changes):
    fields = {"steps": 1, "batch_size": 4, "max_length": 48, "learning_rate": 3e-3, "canvas": "longest"}
    learner = from_checkpoint(FOLDER, "diffcoder", Tuning(tune="lora", rank=8), 0)
    settings = TrainSettings(**{**fields, **changes})
    rows = write_rows(folder / "rows.jsonl", 6)
    return supervised_job(learner, settings, Data.read(rows, None, learner.tokenizer, max_length=48, skip_long=False))


def test_an_adapter_learns(tmp_path):
    run(job_of(tmp_path, steps=30), tmp_path / "run")
    losses = [loss for _, loss, _ in curve(tmp_path / "run")]
    assert sum(losses[-8:]) < 0.6 * sum(losses[:8])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"objective": "causal"}, "objective causal is not for Stable-DiffCoder models: without a shift"),
        ({"objective": "mixed"}, "objective mixed is not for Stable-DiffCoder models: without a shift"),
        ({"infill": 0.2}, "infill is not for Stable-DiffCoder models: a block does not see the text after it"),
    ],
)
def test_what_they_cannot_learn_is_refused(tmp_path, fields, message):
    with pytest.raises(TrainError, match=f"^{message}") as caught:
        job_of(tmp_path, **fields)
    assert caught.value.field == next(iter(fields))


def test_the_copy_without_masks_is_in_the_memory_that_is_computed():
    model = built(block_length=4)
    assert computed(model).total == pytest.approx(measured(model), rel=0.25)
