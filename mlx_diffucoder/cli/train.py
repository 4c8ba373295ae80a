"""`diffucode train`: learn from examples; `diffucode train grpo`: learn from tests that answers pass."""

import json
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..training.grpo_settings import GrpoSettings
from ..training.settings import TrainSettings
from . import options
from .command import Command, Group, examples, refuse_options
from .terminal import stop_signals

if TYPE_CHECKING:
    from ..training.grpo_job import GrpoJob
    from ..training.job import Job

TRAINING, MASKS = "Training", "Masks"
ANSWERS = ("max_tokens", "temperature", "top_p", "rule", "window")
"""The fields of `GenerationConfig` that `train grpo` has options for."""

Out = Annotated[Path, typer.Option(help="The folder of the run.", show_default=False)]
TrainDtype = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        help="Compute in float32, float16 or bfloat16.",
        show_default="that of the weights; float32 for float16",
        rich_help_panel=options.MODEL,
    ),
]
Rank = Annotated[int, typer.Option(help="Rank of the adapters.", rich_help_panel=options.MODEL)]
Scale = Annotated[float, typer.Option(help="Factor that scales the adapters' output.", rich_help_panel=options.MODEL)]
Layers = Annotated[str, typer.Option(help="How many of the last layers get adapters, or all.", rich_help_panel=options.MODEL)]
Steps = Annotated[int | None, typer.Option(help="Optimizer steps.", show_default="one epoch", rich_help_panel=TRAINING)]
Epochs = Annotated[float | None, typer.Option(help="Instead of steps: passes through the data.", rich_help_panel=TRAINING)]
BatchSize = Annotated[int, typer.Option(help="Canvases forwarded together.", rich_help_panel=TRAINING)]
LearningRate = Annotated[float, typer.Option(help="After the warm-up; a cosine lowers it to a tenth.", rich_help_panel=TRAINING)]
Warmup = Annotated[int, typer.Option(help="Steps in which the learning rate rises.", rich_help_panel=TRAINING)]
Optimizer = Annotated[str, typer.Option(help="adamw, or muon for the layers' matrices.", rich_help_panel=TRAINING)]
WeightDecay = Annotated[float, typer.Option(help="Weight decay of AdamW, for matrices.", rich_help_panel=TRAINING)]
Clip = Annotated[float, typer.Option(help="The largest norm of a gradient.", rich_help_panel=TRAINING)]
Patience = Annotated[int, typer.Option(help="Evaluations without progress before the end; 0: never.", rich_help_panel=TRAINING)]
Seed = Annotated[int, typer.Option(help="Seed of everything random.", rich_help_panel=TRAINING)]
Checkpointing = Annotated[
    bool, typer.Option("--gradient-checkpointing", help="Compute layers twice to save memory.", rich_help_panel=options.ADVANCED)
]
SaveEvery = Annotated[int, typer.Option(help="Steps between checkpoints.", rich_help_panel=options.OUTPUT)]
EvalEvery = Annotated[int, typer.Option(help="Steps between evaluations.", rich_help_panel=options.OUTPUT)]
ReportEvery = Annotated[int, typer.Option(min=1, help="Steps between reports.", rich_help_panel=options.OUTPUT)]
Resume = Annotated[bool, typer.Option("--resume", help="Continue from the last checkpoint.", rich_help_panel=options.OUTPUT)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Check the data and print the memory.", rich_help_panel=options.OUTPUT)]

Data = Annotated[Path, typer.Option(help="JSONL: messages, prompt and completion, text, or tasks.", show_default=False)]
Valid = Annotated[Path | None, typer.Option(help="JSONL to evaluate on.", show_default=False)]
MaxLength = Annotated[int, typer.Option(help="The longest canvas, in tokens, with prompt and padding.")]
SkipLong = Annotated[bool, typer.Option("--skip-long", help="Leave out texts that are longer.")]
FromScratch = Annotated[
    Path | None, typer.Option(help="Random weights: the config.json.", show_default=False, rich_help_panel=options.MODEL)
]
TokenizerFolder = Annotated[
    Path | None, typer.Option(help="With --from-scratch: its folder.", show_default=False, rich_help_panel=options.MODEL)
]
Tune = Annotated[
    str | None, typer.Option(help="full, lora or dora.", show_default="lora; full from scratch", rich_help_panel=options.MODEL)
]
Dropout = Annotated[float, typer.Option(help="Dropout of the adapters' input.", rich_help_panel=options.MODEL)]
Accumulate = Annotated[int, typer.Option(help="Batches per step.", rich_help_panel=TRAINING)]
Objective = Annotated[str, typer.Option(help="masked; causal (left to right); or mixed.", rich_help_panel=MASKS)]
InfillShare = Annotated[float, typer.Option(help="Share of examples that become a hole in text.", rich_help_panel=MASKS)]
Prefixes = Annotated[float, typer.Option(help="Share of the others masked from a position on.", rich_help_panel=MASKS)]
Padding = Annotated[float, typer.Option(help="Share of the others with separate padding masks.", rich_help_panel=MASKS)]
Smoothing = Annotated[float, typer.Option(help="Label smoothing of tokens far from known text.", rich_help_panel=MASKS)]
CanvasLength = Annotated[str, typer.Option(help="Canvas length: random, longest or full.", rich_help_panel=MASKS)]
LeastT = Annotated[float, typer.Option(help="The smallest probability of a mask.", rich_help_panel=MASKS)]

TasksFile = Annotated[Path, typer.Option(help="Tasks with tests, as diffucode eval reads them.", show_default=False)]
ValidTasks = Annotated[Path | None, typer.Option(help="Tasks to evaluate on.", show_default=False)]
GrpoTune = Annotated[str, typer.Option(help="full, lora or dora.", rich_help_panel=options.MODEL)]
GroupSize = Annotated[int, typer.Option(help="Answers to each prompt.", rich_help_panel=TRAINING)]
PromptsPerStep = Annotated[int, typer.Option(help="Prompts answered at a time.", rich_help_panel=TRAINING)]
Updates = Annotated[int, typer.Option(help="Steps that learn from the same answers.", rich_help_panel=TRAINING)]
ClipRatio = Annotated[float, typer.Option(help="How far a ratio of probabilities counts.", rich_help_panel=TRAINING)]
KlWeight = Annotated[float, typer.Option(help="Weight of the KL to the first model.", rich_help_panel=TRAINING)]
FormatReward = Annotated[float, typer.Option(help="Reward of a well-formed answer; passing is 1 more.", rich_help_panel=TRAINING)]
Timeout = Annotated[float, typer.Option(help="Seconds for each program.", rich_help_panel=options.DECODING)]
Memory = Annotated[int, typer.Option(help="MB for each program; macOS ignores it.", rich_help_panel=options.DECODING)]


class TrainGroup(Group):
    """`train` trains by itself, and has the subcommand `grpo`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse as Typer does. The option `--method`, which chose between the two, is wrong usage (exit code 2)."""
        if any(arg.partition("=")[0] == "--method" for arg in args):
            ctx.fail("train has no --method now: use `train grpo` for coupled-grpo, and `train` alone for sft")
        ctx.resilient_parsing = bool(args) and args[0] in self.commands  # then its own required options may be missing
        rest = list(super().parse_args(ctx, args))
        ctx.resilient_parsing = False
        return rest


app = typer.Typer(name="train", cls=TrainGroup, invoke_without_command=True, subcommand_metavar="[grpo ...]")


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
    if context.invoked_subcommand is not None:
        refuse_options(context)
        return 0
    return _train(context.params)


def _train(given: dict[str, Any]) -> int:
    settings = TrainSettings.of_options(given)  # before anything is read
    from ..training.job import Data, Job
    from .model_option import open_learner

    learner = open_learner(given)
    sizes = {name: given[name] for name in ("max_length", "skip_long")}
    read = Data.read(given["data"], given["valid"], learner.tokenizer, **sizes)
    settings = replace(settings, steps=given["steps"] or read.steps(given["epochs"] or 1, settings))
    return _start(Job.of(learner, settings, read, gradient_checkpointing=given["gradient_checkpointing"]), given)


@app.command(
    cls=Command,
    epilog=examples("diffucode train grpo --data tasks.jsonl --out run --allow-code-execution"),
    help="""Train a model on tasks, by the tests that its own answers pass (coupled-GRPO).

    The model answers each task several times. Answers that pass the task's tests become more probable. This runs the code
    that the model writes on this machine.
    """,
)
def grpo(
    context: typer.Context,
    data: TasksFile,
    out: Out,
    valid: ValidTasks = None,
    allow_code_execution: options.AllowCodeExecution = False,
    model: options.Model = None,
    tune: GrpoTune = "lora",
    rank: Rank = 8,
    scale: Scale = 20.0,
    layers: Layers = "all",
    dtype: TrainDtype = None,
    yes: options.Yes = False,
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
) -> int:
    """Train by coupled-GRPO."""
    return _train_grpo(context)


def _train_grpo(context: typer.Context) -> int:
    given = context.params
    options.require_code_execution(given["allow_code_execution"], "train grpo")
    settings = TrainSettings.of_options(given)  # before anything is read
    from ..evaluation import Limits
    from ..training.grpo_job import GrpoJob, GrpoPlan, read_prompts, steps_of
    from .model_option import open_learner

    usual = {name: given[name] for name in ("temperature", "max_tokens")}
    plan = GrpoPlan(
        grpo=GrpoSettings(**{one.name: given[one.name] for one in fields(GrpoSettings)}),
        decoding=options.decoding_config(context, usual, ANSWERS),
        limits=Limits(timeout=given["timeout"], memory=given["memory"]),
    )
    learner = open_learner(given)
    tasks, held_out = (read_prompts(file, learner, plan.decoding) if file else [] for file in (given["data"], given["valid"]))
    settings = replace(settings, steps=given["steps"] or steps_of(plan, len(tasks), given["epochs"] or 1))
    job = GrpoJob.of(learner, settings, plan, tasks, held_out, gradient_checkpointing=given["gradient_checkpointing"])
    return _start(job, given)


def _start(job: "Job | GrpoJob", given: dict[str, Any]) -> int:
    """Run a job, or with `--dry-run` only describe it. Returns the exit code."""
    from ..training.job import describe
    from ..training.trainer import Hooks
    from .progress import training

    trainer, outcome = None if given["dry_run"] else job.trainer(given["out"], Hooks(), resume=given["resume"]), dict[str, Any]()
    print(*describe(job), sep="\n", file=sys.stderr)
    if trainer is not None:
        with training(job.settings.steps) as report, stop_signals() as signals:
            trainer.hooks = Hooks(report, lambda: bool(signals), given["report_every"])
            done = trainer.run()
        if not done:
            print(f"saved in {trainer.folder.newest()}; the same command with --resume continues", file=sys.stderr)
            return 128 + signals[0]
        trainer.folder.publish(trainer.progress)
        progress = {"best_valid": trainer.progress.best, "best_step": trainer.progress.best_step}
        outcome = {"out": str(given["out"]), **trainer.last, **progress}
    if given["as_json"]:
        print(json.dumps({**outcome, "memory_computed": job.memory.to_dict(), "settings": job.settings.to_dict()}))
    elif outcome:
        print(outcome["out"])
    return 0
