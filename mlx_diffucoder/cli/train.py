"""`diffucode train`: examples in, a model or an adapter that has learnt from them out."""

import json
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import TrainError
from ..formatting import format_bytes
from .command import Command, examples
from .options import Json, Model, Quiet, Yes
from .terminal import Terminated
from .train_grpo import by_method, grpo_job

if TYPE_CHECKING:
    from ..training.grpo_job import Asked, GrpoJob
    from ..training.job import Job
    from ..training.learners import Learner, Tuning
    from ..training.trainer import Trainer


app = typer.Typer()


@app.command(cls=Command, epilog=examples("diffucode train -m pocket --data train.jsonl --out adapter --steps 300"))
@by_method
def train(
    data: Annotated[Path, typer.Option(help="JSONL: messages, prompt and completion, text, or tasks.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The folder of the run.", show_default=False)],
    model: Model = None,
    from_scratch: Annotated[
        Path | None, typer.Option(help="In place of a model: a config.json, for random weights.", show_default=False)
    ] = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="With --from-scratch: the folder whose tokenizer it takes.", show_default=False)
    ] = None,
    valid: Annotated[Path | None, typer.Option(help="JSONL to evaluate on, as --data.", show_default=False)] = None,
    method: Annotated[str, typer.Option(help="sft, supervised fine-tuning, or coupled-grpo, from rewards.")] = "sft",
    tune: Annotated[str | None, typer.Option(help="full, lora or dora.", show_default="lora; full from scratch")] = None,
    rank: Annotated[int, typer.Option(help="Of the adapters.")] = 8,
    scale: Annotated[float, typer.Option(help="What the adapters' part is multiplied by.")] = 20.0,
    dropout: Annotated[float, typer.Option(help="Of the adapters' input.")] = 0.0,
    layers: Annotated[str, typer.Option(help="The last so many layers get adapters, or all.")] = "all",
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.", show_default="one epoch")] = None,
    epochs: Annotated[float | None, typer.Option(help="In place of steps: times through the data.", show_default=False)] = None,
    batch_size: Annotated[int, typer.Option(help="Canvases forwarded together.")] = 8,
    accumulate: Annotated[int, typer.Option(help="Batches a step; on a CPU they are computed side by side.")] = 1,
    max_length: Annotated[int, typer.Option(help="The longest canvas: prompt, answer and padding.")] = 256,
    canvas: Annotated[str, typer.Option(help="Canvas lengths: random, longest (of the batch) or full.")] = "random",
    objective: Annotated[str, typer.Option(help="masked; causal, left to right, to begin a model with; or mixed.")] = "masked",
    infill: Annotated[float, typer.Option(help="Share of the examples that become holes between known text.")] = 0.0,
    prefixes: Annotated[float, typer.Option(help="Share of the other examples that are masked from a place on.")] = 0.0,
    padding: Annotated[float, typer.Option(help="Share of the other examples whose padding is masked by itself.")] = 0.0,
    smoothing: Annotated[float, typer.Option(help="Share of a target spread over all tokens, far behind what is shown.")] = 0.0,
    learning_rate: Annotated[float, typer.Option(help="After the warm-up; a cosine takes it to a tenth.")] = 1e-4,
    warmup: Annotated[int, typer.Option(help="Steps in which the learning rate rises.")] = 0,
    optimizer: Annotated[str, typer.Option(help="adamw, or muon for the layers' matrices, to begin from scratch.")] = "adamw",
    weight_decay: Annotated[float, typer.Option(help="AdamW's, of matrices.")] = 0.01,
    clip: Annotated[float, typer.Option(help="The largest norm of a gradient.")] = 1.0,
    least_t: Annotated[float, typer.Option(help="The smallest probability of a mask; its loss counts 1 over it.")] = 1e-3,
    dtype: Annotated[
        str | None, typer.Option(help="Compute in float32, float16 or bfloat16.", show_default="the weights', float16 in float32")
    ] = None,
    gradient_checkpointing: Annotated[
        bool,
        typer.Option("--gradient-checkpointing", help="Compute each layer twice, for less memory.", rich_help_panel="Advanced"),
    ] = False,
    save_every: Annotated[int, typer.Option(help="Steps from one checkpoint to the next.")] = 500,
    eval_every: Annotated[int, typer.Option(help="Steps from one evaluation to the next.")] = 100,
    report_every: Annotated[int, typer.Option(min=1, help="Steps from one line to the next.")] = 10,
    patience: Annotated[int, typer.Option(help="End after so many evaluations without a better one; 0 never.")] = 0,
    skip_long: Annotated[bool, typer.Option("--skip-long", help="Leave out what is longer than --max-length.")] = False,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in --out.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the data, print the memory it takes, and stop.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
    yes: Yes = False,
    asked: "Asked | None" = None,
) -> int:
    """Train a model on examples, by masked diffusion; or on tasks, by what its own answers earn.

    What is trained (an adapter, unless --tune full) is in --out at the end. Ctrl-C saves, and --resume goes on, as if
    nothing had been.

    With --method coupled-grpo the model answers tasks, its answers are run with the tasks' tests (which takes
    --allow-code-execution), and those that pass become more probable.
    """
    if steps is not None and epochs is not None:
        raise TrainError("--steps and --epochs both say how long; give one of them")
    if epochs is not None and not 0 < epochs < 1e6:
        raise TrainError(f"epochs must be above 0 and below 1e6, not {epochs!r}", field="epochs")
    from ..training.batches import batches_per_epoch
    from ..training.job import Data, Job
    from ..training.learners import Tuning
    from ..training.settings import TrainSettings

    def settings_of(steps: int) -> TrainSettings:
        return TrainSettings(
            steps=steps,
            batch_size=batch_size,
            accumulate=accumulate,
            max_length=max_length,
            learning_rate=learning_rate,
            warmup=warmup,
            clip=clip,
            optimizer=optimizer,
            weight_decay=weight_decay,
            save_every=save_every,
            eval_every=eval_every,
            patience=patience,
            objective=objective,
            infill=infill,
            prefixes=prefixes,
            padding=padding,
            smoothing=smoothing,
            canvas=canvas,
            least_t=least_t,
            seed=seed,
        )

    settings_of(steps or 1)  # flags that cannot work are refused before anything is read
    tuning = Tuning(
        tune=tune or ("full" if from_scratch else "lora"),
        rank=rank,
        scale=scale,
        dropout=dropout,
        layers=_number_of(layers),
        dtype=dtype,
    )
    learner = _learner(model, from_scratch, tokenizer, tuning, seed, yes=yes, unread=dry_run)
    job: Job | GrpoJob
    if asked is None:
        read = Data.read(data, valid, learner.tokenizer, max_length=max_length, skip_long=skip_long)
        if steps is None:
            steps = max(1, round((epochs or 1) * batches_per_epoch(len(read.train.kept), batch_size) / accumulate))
        job = Job.of(learner, settings_of(steps), read, gradient_checkpointing=gradient_checkpointing)
    else:
        files = data, valid
        job = grpo_job(learner, settings_of, asked, files, steps, epochs, gradient_checkpointing=gradient_checkpointing)
    if dry_run:
        _say_what_is_coming(job)
        _print(job, {}, as_json=as_json)
        return 0
    return _run(job, out, report_every, resume=resume, as_json=as_json)


def _number_of(layers: str) -> int | None:
    if layers == "all":
        return None
    try:
        return int(layers)
    except ValueError:
        raise TrainError(f"layers must be a number or all, not {layers!r}", field="layers") from None


def _learner(
    model: str | None, config: Path | None, tokenizer: Path | None, tuning: "Tuning", seed: int, *, yes: bool, unread: bool
) -> "Learner":
    from ..training.learners import from_checkpoint, from_scratch
    from .model_option import folder_named

    if (config is None) != (tokenizer is None):
        raise TrainError("--from-scratch and --tokenizer go together: a config.json, and the folder of a tokenizer")
    if config is not None and tokenizer is not None:
        if tuning.tune != "full":
            raise TrainError(f"tune {tuning.tune} needs a trained model; from scratch it is full", field="tune")
        return from_scratch(config, tokenizer, seed, tuning.dtype)
    name, folder = folder_named(model, yes=yes)
    return from_checkpoint(folder, name, tuning, seed, unread=unread)


def _run(job: "Job | GrpoJob", out: Path, report_every: int, *, resume: bool, as_json: bool) -> int:
    from ..training.trainer import Hooks
    from .progress import training

    trainer = job.trainer(out, Hooks(), resume=resume)
    _say_what_is_coming(job)
    with training(job.settings.steps) as report, _stopping() as asked:
        trainer.hooks = Hooks(report, lambda: bool(asked), report_every)
        done = trainer.run()
    if not done:
        print(f"saved in {trainer.folder.newest()}; the same command with --resume goes on", file=sys.stderr)
        return 128 + asked[0]
    trainer.folder.publish(trainer.progress)
    _print(job, _outcome(trainer, out), as_json=as_json)
    return 0


def _outcome(trainer: "Trainer", out: Path) -> dict[str, object]:
    progress = trainer.progress
    return {"out": str(out), **trainer.last, "best_valid": progress.best, "best_step": progress.best_step}


def _say_what_is_coming(job: "Job | GrpoJob") -> None:
    from ..memory import memory_size

    for line in job.skipped:
        print(line, file=sys.stderr)
    memory = {name: format_bytes(count) for name, count in job.memory.to_dict().items()}
    print(
        f"{job.what}, {job.settings.steps} steps; about {memory['total']} at most: weights"
        f" {memory['weights']}, gradients {memory['gradients']}, optimizer {memory['optimizer']}, activations"
        f" {memory['activations']}, logits {memory['logits']}; this machine has {format_bytes(memory_size())}",
        file=sys.stderr,
    )


def _print(job: "Job | GrpoJob", outcome: dict[str, object], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({**outcome, "memory_computed": job.memory.to_dict(), "settings": job.settings.to_dict()}))
    elif outcome:
        print(outcome["out"])


@contextmanager
def _stopping() -> Iterator[list[int]]:
    """Ctrl-C, or a request to terminate, asks the run to save and end after its step; a second one ends it at once.

    Yields the signals that came.
    """
    asked: list[int] = []

    def ask(number: int, frame: object) -> None:
        asked.append(number)
        if len(asked) > 1:
            raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
        # Straight to the descriptor: the signal may have come in the middle of a print.
        with suppress(OSError, ValueError):
            os.write(sys.stderr.fileno(), b"saving after this step; Ctrl-C again ends it at once\n")

    before = {one: signal.signal(one, ask) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield asked
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
