"""`diffucode train`: learn from examples; `diffucode train grpo`: learn from tests that answers pass."""

import json
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..training.settings import GrpoSettings, TrainSettings
from . import options
from .cluster import Cluster, machines_of
from .command import Command, Group, examples, refuse_options
from .terminal import note, put, stop_signals

if TYPE_CHECKING:
    from ..training.job import Job
    from ..training.trainer import Trainer

in_training, in_masks = options.panel("Training"), options.panel("Masks")
ANSWERS = ("max_tokens", "temperature", "top_p", "rule", "window")
"""The fields of `GenerationConfig` that `train grpo` has options for."""

Out = Annotated[Path, typer.Option(help="The folder of the run.")]
TrainDtype = Annotated[
    str | None,
    options.in_model(help="Compute in float32, float16 or bfloat16.", show_default="that of the weights; float32 for float16"),
]
Rank = Annotated[int, options.in_model(help="Rank of the adapters.")]
Scale = Annotated[float, options.in_model(help="Factor that scales the adapters' output.")]
Layers = Annotated[str, options.in_model(help="How many of the last layers get adapters, or all.")]
Steps = Annotated[int | None, in_training(help="Optimizer steps.", show_default="one epoch")]
Epochs = Annotated[float | None, in_training(help="Instead of steps: passes through the data.")]
BatchSize = Annotated[int, in_training(help="Canvases forwarded together.")]
LearningRate = Annotated[float, in_training(help="After the warm-up; a cosine lowers it to a tenth.")]
Warmup = Annotated[int, in_training(help="Steps in which the learning rate rises.")]
Optimizer = Annotated[str, in_training(help="adamw, or muon for the layers' matrices.")]
WeightDecay = Annotated[float, in_training(help="Weight decay of AdamW, for matrices.")]
Clip = Annotated[float, in_training(help="The largest norm of a gradient.")]
Patience = Annotated[int, in_training(help="Evaluations without progress before the end; 0: never.")]
Seed = Annotated[int, in_training(help="Seed of everything random.")]
Checkpointing = Annotated[bool, options.in_advanced("--gradient-checkpointing", help="Compute layers twice to save memory.")]
SaveEvery = Annotated[int, options.in_output(help="Steps between checkpoints.")]
EvalEvery = Annotated[int, options.in_output(help="Steps between evaluations.")]
ReportEvery = Annotated[int, options.in_output(min=1, help="Steps between reports.")]
Resume = Annotated[bool, options.in_output("--resume", help="Continue from the last checkpoint.")]
DryRun = Annotated[bool, options.in_output("--dry-run", help="Check the data and print the memory.")]

Data = Annotated[Path, typer.Option(help="JSONL: messages, prompt and completion, text, or tasks.")]
Valid = Annotated[Path | None, typer.Option(help="JSONL to evaluate on.")]
MaxLength = Annotated[int, typer.Option(help="The longest canvas, in tokens, with prompt and padding.")]
SkipLong = Annotated[bool, typer.Option("--skip-long", help="Leave out texts that are longer.")]
FromScratch = Annotated[Path | None, options.in_model(help="Random weights: the config.json.")]
TokenizerFolder = Annotated[Path | None, options.in_model(help="With --from-scratch: its folder.")]
Tune = Annotated[str | None, options.in_model(help="full, lora or dora.", show_default="lora; full from scratch")]
Dropout = Annotated[float, options.in_model(help="Dropout of the adapters' input.")]
Accumulate = Annotated[int, in_training(help="Batches per step.")]
Objective = Annotated[str, in_masks(help="masked; causal (left to right); or mixed.")]
InfillShare = Annotated[float, in_masks(help="Share of examples that become a hole in text.")]
Prefixes = Annotated[float, in_masks(help="Share of the others masked from a position on.")]
Padding = Annotated[float, in_masks(help="Share of the others with separate padding masks.")]
Smoothing = Annotated[float, in_masks(help="Label smoothing of tokens far from known text.")]
CanvasLength = Annotated[str, in_masks(help="Canvas length: random, longest or full.")]
LeastT = Annotated[float, in_masks(help="The smallest probability of a mask.")]

TasksFile = Annotated[Path, typer.Option(help="Tasks with tests, as diffucode eval reads them.")]
ValidTasks = Annotated[Path | None, typer.Option(help="Tasks to evaluate on.")]
GrpoTune = Annotated[str, options.in_model(help="full, lora or dora.")]
Order = Annotated[str, in_training(help="any (coupled-GRPO), or left-to-right (JustGRPO).")]
GroupSize = Annotated[int, in_training(help="Answers to each prompt.")]
PromptsPerStep = Annotated[int, in_training(help="Prompts answered at a time.")]
Updates = Annotated[int, in_training(help="Steps that learn from the same answers.")]
ClipRatio = Annotated[float, in_training(help="How far a ratio of probabilities counts.")]
KlWeight = Annotated[float, in_training(help="Weight of the KL to the first model.")]
FormatReward = Annotated[float, in_training(help="Reward of a well-formed answer; passing is 1 more.")]
Timeout = Annotated[float, options.in_decoding(help="Seconds for each program.")]
Memory = Annotated[int, options.in_decoding(help="MB for each program; macOS ignores it.")]


class TrainGroup(Group):
    """`train` trains by itself, and has the subcommands `grpo` and `distill`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse as Typer does. The option `--method`, which chose between the two, is wrong usage (exit code 2)."""
        if any(arg.partition("=")[0] == "--method" for arg in args):
            ctx.fail("train has no --method now: use `train grpo` for coupled-grpo, and `train` alone for sft")
        ctx.resilient_parsing = bool(args) and args[0] in self.commands  # then its own required options may be missing
        rest = list(super().parse_args(ctx, args))
        ctx.resilient_parsing = False
        return rest


app = typer.Typer(name="train", cls=TrainGroup, invoke_without_command=True, subcommand_metavar="[grpo|distill ...]")


@app.callback(
    epilog=examples("diffucode train -m pocket --data train.jsonl --out adapter --steps 300"),
    help="""Train a model on examples, by masked diffusion.

    At the end --out holds what was trained: an adapter, or with --tune full a model. Ctrl-C saves a checkpoint, and
    --resume continues from it with the same result. To learn from tests that answers pass, see train grpo.
    """,
)
def train(
    context: typer.Context,
    data: Data,
    out: Out,
    valid: Valid = None,
    max_length: MaxLength = 256,
    skip_long: SkipLong = False,
    model: options.Model = None,
    from_scratch: FromScratch = None,
    tokenizer: TokenizerFolder = None,
    tune: Tune = None,
    rank: Rank = 8,
    scale: Scale = 20.0,
    dropout: Dropout = 0.0,
    layers: Layers = "all",
    dtype: TrainDtype = None,
    revision: options.Revision = None,
    refresh: options.Refresh = False,
    yes: options.Yes = False,
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
    objective: Objective = "masked",
    infill: InfillShare = 0.0,
    prefixes: Prefixes = 0.0,
    padding: Padding = 0.0,
    smoothing: Smoothing = 0.0,
    canvas: CanvasLength = "random",
    least_t: LeastT = 1e-3,
    gradient_checkpointing: Checkpointing = False,
    save_every: SaveEvery = 500,
    eval_every: EvalEvery = 100,
    report_every: ReportEvery = 10,
    resume: Resume = False,
    dry_run: DryRun = False,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> int:
    """Train on examples, unless a subcommand follows."""
    if context.invoked_subcommand:
        refuse_options(context)
    return 0 if context.invoked_subcommand else _train(context)


def _train(context: typer.Context) -> int:
    given = context.params
    settings = _settings(context)  # before anything is read
    from ..training.job import Data, supervised_job
    from .model_option import open_learner
    from .progress import counting

    learner = open_learner(given)
    sizes = {name: given[name] for name in ("max_length", "skip_long")}
    with counting("reading texts", None) as advance:
        read = Data.read(given["data"], given["valid"], learner.tokenizer, **sizes, advance=advance)
    settings = replace(settings, steps=given["steps"] or read.steps(given["epochs"] or 1, settings))
    return start(supervised_job(learner, settings, read, gradient_checkpointing=given["gradient_checkpointing"]), given)


@app.command(
    cls=Command,
    epilog=examples("diffucode train grpo --data tasks.jsonl --out run --allow-code-execution"),
    help="""Train a model on tasks, by the tests that its own answers pass (GRPO).

    The model answers each task several times. Answers that pass the task's tests become more probable. With --order
    left-to-right the answers are written from left to right, and learned from in that order. This runs the code that the
    model writes on this machine.
    """,
)
def grpo(
    context: typer.Context, data: TasksFile, out: Out,
    valid: ValidTasks = None,
    allow_code_execution: options.AllowCodeExecution = False,
    sandbox: options.Sandbox = "auto",
    cluster: Cluster = None,
    model: options.Model = None,
    tune: GrpoTune = "lora",
    rank: Rank = 8,
    scale: Scale = 20.0,
    layers: Layers = "all",
    dtype: TrainDtype = None,
    revision: options.Revision = None,
    refresh: options.Refresh = False,
    yes: options.Yes = False,
    order: Order = GrpoSettings.order,
    group: GroupSize = GrpoSettings.group,
    prompts_per_step: PromptsPerStep = GrpoSettings.prompts_per_step,
    updates: Updates = GrpoSettings.updates,
    steps: Steps = None,
    epochs: Epochs = None,
    batch_size: BatchSize = 8,
    learning_rate: LearningRate = 1e-4,
    warmup: Warmup = 0,
    optimizer: Optimizer = "adamw",
    weight_decay: WeightDecay = 0.01,
    clip: Clip = 1.0,
    clip_ratio: ClipRatio = GrpoSettings.clip_ratio,
    kl: KlWeight = GrpoSettings.kl,
    format_reward: FormatReward = GrpoSettings.format_reward,
    patience: Patience = 0,
    seed: Seed = 0,
    preset: options.Preset = None,
    rule: options.Rule = "auto",
    window: options.Window = "auto",
    max_tokens: options.MaxTokens = 256,
    temperature: options.Temperature = 1.0,
    top_p: options.TopP = 1.0,
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
) -> int:  # fmt: skip
    return _train_grpo(context)


def _train_grpo(context: typer.Context) -> int:
    given = context.params
    options.require_code_execution(given["allow_code_execution"], "train grpo")
    settings = _settings(context)  # before anything is read
    from ..cluster.training import spread_rollouts
    from ..training.grpo import GrpoPlan
    from ..training.grpo_job import grpo_job, read_prompts, steps_of
    from .model_option import open_learner

    chosen = GrpoSettings(**{one.name: given[one.name] for one in fields(GrpoSettings)})
    usual = {name: given[name] for name in ("temperature", "max_tokens")} | chosen.decoding
    plan = GrpoPlan(grpo=chosen, decoding=options.decoding_config(context, usual, ANSWERS), limits=options.limits_of(given))
    learner = open_learner(given)
    tasks, held_out = (read_prompts(file, learner, plan.decoding) if file else [] for file in (given["data"], given["valid"]))
    settings = replace(settings, steps=given["steps"] or steps_of(plan, len(tasks), given["epochs"] or 1))
    with machines_of(given) as machines:
        rollouts = spread_rollouts(machines, learner, plan.limits, given["sandbox"])
        less = given["gradient_checkpointing"]
        job = grpo_job(learner, settings, plan, tasks, held_out, gradient_checkpointing=less, roll_out=rollouts)
        options.tell_sandbox(plan.limits, given)
        return start(job, given)


def _settings(context: typer.Context) -> TrainSettings:
    given = context.params
    tune, scratch = given["tune"], given.get("from_scratch") is not None and given["tokenizer"] is not None
    options.refuse_idle(context, "--valid", ["patience", "eval_every"], given=given["valid"] is not None)
    adapters = tune != "full" and not scratch
    options.refuse_idle(context, "--tune lora or dora", ["rank", "scale", "dropout", "layers"], given=adapters)
    options.refuse_idle(context, "a trained model", ["model", "revision", "refresh"], given=not scratch)
    return TrainSettings.of_options(given)


def start(
    job: "Job",
    given: dict[str, Any],
    prepare: "Callable[[Trainer], None]" = lambda trainer: None,
    report: Callable[[], dict[str, Any]] = dict,
) -> int:
    """Run a job, or with `--dry-run` only describe it. Returns the exit code.

    Args:
        prepare: called before the run.
        report: called when the trained weights are in `--out`; more to print with `--json`.
    """
    from ..training.trainer import Hooks
    from .progress import training

    trainer, outcome = None if given["dry_run"] else job.trainer(given["out"], Hooks(), resume=given["resume"]), dict[str, Any]()
    note("\n".join(job.describe()))
    if trainer is not None:
        prepare(trainer)
        with training(job.settings.steps) as tell, stop_signals() as signals:
            trainer.hooks = Hooks(tell, lambda: bool(signals), given["report_every"])
            done = trainer.run()
        if not done:
            note(f"saved in {trainer.folder.newest()}; the same command with --resume continues")
            return 128 + signals[0]
        trainer.folder.publish(trainer.progress)
        progress = {"best_valid": trainer.progress.best, "best_step": trainer.progress.best_step}
        outcome = {"out": str(given["out"]), **trainer.last, **progress, **report()}
    if given["as_json"]:
        put(json.dumps({**outcome, "memory_computed": job.memory.to_dict(), "settings": vars(job.settings)}))
    elif outcome:
        put(outcome["out"])
    return 0
