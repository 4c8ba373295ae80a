"""`diffucode train distill`: learn to guess one's own answers further ahead."""

from dataclasses import replace
from typing import Annotated, Any

import typer

from ..training.settings import TrainSettings
from . import options
from .cluster import Cluster, machines_of
from .command import Command, examples
from .terminal import note
from .train import (
    Accumulate,
    BatchSize,
    Checkpointing,
    Clip,
    DryRun,
    Epochs,
    EvalEvery,
    Layers,
    LearningRate,
    Memory,
    Optimizer,
    Out,
    Patience,
    Rank,
    ReportEvery,
    Resume,
    SaveEvery,
    Scale,
    Seed,
    Steps,
    TasksFile,
    Timeout,
    TrainDtype,
    ValidTasks,
    Warmup,
    WeightDecay,
    in_training,
    start,
)

app = typer.Typer()
Objective = Annotated[
    str, in_training(help="drafts or trajectory (guesses for the tree), dparallel (surer masks), d2f (block forcing).")
]
DistillTune = Annotated[str, options.in_model(help="lora or full.")]
Gated = Annotated[bool, options.in_model("--gated/--no-gated", help="Let the adapter act on masks only.")]
Untested = Annotated[bool, typer.Option("--untested", help="Learn from answers without tests of 3 asserts too.")]


@app.command(
    cls=Command,
    epilog=examples("diffucode train distill --data tasks.jsonl --out fast --allow-code-execution"),
    help="""Train a model to commit more tokens in each forward, on its own answers.

    The model answers each task from left to right. Answers that pass the task's tests are learned from. With --valid, the
    tiles that a token takes are measured, and how many answers change. This runs the code that the model writes on this
    machine.
    """,
)
def distill(
    context: typer.Context,
    data: TasksFile,
    out: Out,
    valid: ValidTasks = None,
    untested: Untested = False,
    allow_code_execution: options.AllowCodeExecution = False,
    sandbox: options.Sandbox = "auto",
    cluster: Cluster = None,
    model: options.Model = None,
    tune: DistillTune = "lora",
    gated: Gated = True,
    rank: Rank = 16,
    scale: Scale = 20.0,
    layers: Layers = "all",
    dtype: TrainDtype = None,
    revision: options.Revision = None,
    refresh: options.Refresh = False,
    yes: options.Yes = False,
    objective: Objective = "drafts",
    steps: Steps = None,
    epochs: Epochs = None,
    batch_size: BatchSize = 8,
    accumulate: Accumulate = 1,
    learning_rate: LearningRate = 1e-4,
    warmup: Warmup = 0,
    optimizer: Optimizer = "adamw",
    weight_decay: WeightDecay = 0.01,
    clip: Clip = 1.0,
    patience: Patience = 0,
    seed: Seed = 0,
    max_tokens: options.MaxTokens = 256,
    timeout: Timeout = 5.0,
    memory: Memory = 1024,
    gradient_checkpointing: Checkpointing = False,
    save_every: SaveEvery = 500,
    eval_every: EvalEvery = 100,
    report_every: ReportEvery = 10,
    resume: Resume = False,
    dry_run: DryRun = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    return _distill(context)


def _distill(context: typer.Context) -> int:
    given = context.params
    options.require_code_execution(given["allow_code_execution"] or given["untested"], "train distill")
    options.refuse_idle(context, "--valid", ["patience", "eval_every"], given=given["valid"] is not None)
    settings = TrainSettings.of_options({name: given[name] for name in given if name != "objective"})
    from ..training.answers import read_prompts
    from ..training.batches import batches_per_epoch
    from ..training.distill import DistillPlan, distill_job
    from ..training.distilled import compared
    from ..training.state import ANSWERS as FILE
    from .model_option import open_learner
    from .progress import counting, waiting

    limits = options.limits_of(given)
    plan = DistillPlan(objective=given["objective"], max_tokens=given["max_tokens"], limits=limits)
    learner = open_learner(given)
    judges = [given["valid"]] if given["valid"] else []
    prompts = read_prompts(given["data"], learner, plan.decoding(), untested=given["untested"], judges=judges)
    held_out = read_prompts(given["valid"], learner, plan.decoding(), untested=True, judges=None) if judges else []
    tested = any(prompt.task.tests for prompt in [*prompts, *held_out])
    options.require_code_execution(given["allow_code_execution"] or not tested, "train distill")
    epoch = batches_per_epoch(len(prompts), settings.batch_size * settings.accumulate)
    settings = replace(settings, steps=given["steps"] or max(1, round((given["epochs"] or 1) * epoch)))
    less = given["gradient_checkpointing"]
    job, method = distill_job(learner, settings, plan, prompts, held_out, gradient_checkpointing=less)
    options.tell_sandbox(limits, given)

    def prepare(trainer: Any) -> None:
        how: dict[str, Any] = {"begun": trainer.progress.step > 0}
        with machines_of(given) as machines, counting("answering", method.asked, machines or "") as advance:
            if machines:
                from ..cluster.training import spread_answers

                how["answer"] = spread_answers(machines, learner, limits, given["sandbox"])
            right = method.prepare(given["out"] / FILE, advance=advance, **how)
        note(f"{right} of {len(prompts)} answers are right, and are learned from")

    def report() -> dict[str, Any]:
        learner.read(given["out"])
        with waiting("comparing with the base"):
            base = open_learner(given) if given["tune"] == "full" else None
            found = compared(learner, plan, held_out, method.greedy, base)
        note(f"{'':18} {'before':>8} {'after':>8}")
        for name, value in found["before"].items():
            note(f"{name:18} {value:8.4f} {found['after'][name]:8.4f}")
        best = plan.decoding(found["after"]["tau"])
        note(f"decode with {'--model' if base else '--adapter'} {given['out']} --window {best.window} --rule {best.rule}")
        return found

    return start(job, given, prepare, report if held_out else dict)
