"""`diffucode train`: examples in, a model that has learnt from them out."""

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import TrainError

if TYPE_CHECKING:
    from ..training.trainer import Report


def train(
    data: Annotated[Path, typer.Option(help="JSONL: messages, prompt and completion, or text.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The folder of the run.", show_default=False)],
    from_scratch: Annotated[
        Path | None, typer.Option(help="A config.json: begin with random weights, and --tokenizer.", show_default=False)
    ] = None,
    tokenizer: Annotated[Path | None, typer.Option(help="The folder whose tokenizer it takes.", show_default=False)] = None,
    valid: Annotated[Path | None, typer.Option(help="JSONL to evaluate on, as --data.", show_default=False)] = None,
    steps: Annotated[int | None, typer.Option(help="Optimizer steps.", show_default=False)] = None,
    epochs: Annotated[float | None, typer.Option(help="Or times through the data.", show_default=False)] = None,
    batch_size: Annotated[int, typer.Option(help="Canvases forwarded together.")] = 8,
    accumulate: Annotated[int, typer.Option(help="Batches a step; on a CPU they are computed side by side.")] = 1,
    max_length: Annotated[int, typer.Option(help="The longest canvas, prompt and padding included.")] = 256,
    canvas: Annotated[str, typer.Option(help="Canvas lengths: random, longest (of the batch) or full.")] = "random",
    infill: Annotated[float, typer.Option(help="Share of the examples that become holes between known text.")] = 0.0,
    learning_rate: Annotated[float, typer.Option(help="After the warm-up; it falls to a tenth.")] = 1e-4,
    warmup: Annotated[int, typer.Option(help="Steps in which the learning rate rises.")] = 0,
    weight_decay: Annotated[float, typer.Option(help="AdamW's.")] = 0.01,
    clip: Annotated[float, typer.Option(help="The largest norm of a gradient.")] = 1.0,
    least_t: Annotated[float, typer.Option(help="The smallest share masked; the loss has weights up to 1 over it.")] = 1e-3,
    save_every: Annotated[int, typer.Option(help="Steps from one checkpoint to the next.")] = 500,
    eval_every: Annotated[int, typer.Option(help="Steps from one evaluation to the next.")] = 100,
    report_every: Annotated[int, typer.Option(help="Steps from one line to the next.")] = 10,
    patience: Annotated[int, typer.Option(help="Stop after so many evaluations without a better one; 0 never.")] = 0,
    skip_long: Annotated[bool, typer.Option("--skip-long", help="Leave out what is longer than --max-length.")] = False,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the last checkpoint in --out.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the outcome as one JSON object.")] = False,
) -> int:
    """Train a model on examples.

    Example: diffucode train --from-scratch config.json --tokenizer ./pocket --data train.jsonl --out ./run --steps 1000
    """
    from ..loading import load
    from ..training.batches import Batches, Drawing
    from ..training.data import read_examples
    from ..training.scratch import ModelWriter, settings_of
    from ..training.scratch import from_scratch as begin
    from ..training.settings import TrainSettings
    from ..training.state import RunFolder
    from ..training.supervised import Supervised
    from ..training.trainer import Hooks, Trainer

    if from_scratch is None or tokenizer is None:
        raise TrainError("--from-scratch needs --tokenizer")
    network, words, raw = begin(from_scratch, tokenizer, seed)
    examples = read_examples(data, words, max_length=max_length, skip_long=skip_long)
    drawing = Drawing(size=batch_size, max_length=max_length, infill=infill, canvas=canvas, seed=seed, least_t=least_t)
    batches = Batches(examples.kept, words, drawing)
    if steps is None:
        steps = max(1, round((epochs or 1) * batches.per_epoch / accumulate))
    settings = TrainSettings(
        steps=steps, batch_size=batch_size, accumulate=accumulate, max_length=max_length, learning_rate=learning_rate,
        warmup=warmup, clip=clip, weight_decay=weight_decay, save_every=save_every, eval_every=eval_every,
        patience=patience, infill=infill, canvas=canvas, least_t=least_t, seed=seed,
    )  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    write = ModelWriter(settings_of(network, raw), words, tokenizer)
    folder = RunFolder(out, settings.to_dict(), write)
    newest = folder.newest()
    if newest and not resume:
        raise TrainError(f"{out}: has a run already; --resume goes on with it, or name another folder")
    evaluate = None
    if valid is not None:
        kept = read_examples(valid, words, max_length=max_length, skip_long=skip_long)
        evaluate = Supervised.validation(Batches(kept.kept, words, drawing))
    if newest:
        network, _ = load(newest)
    with stopping() as stop:
        trainer = Trainer(network, Supervised(batches, accumulate), settings, folder, evaluate, Hooks(report, stop, report_every))
        if newest:
            trainer.progress = folder.restore(trainer.optimizer)
        done = trainer.run()
    folder.publish(trainer.progress)
    if as_json:
        print(json.dumps({"out": str(out), **trainer.last}))
    return 0 if done else 130


def report(line: "Report") -> None:
    """A line of progress."""
    valid = "" if line.valid is None else f"  valid {line.valid:.4f}"
    print(
        f"step {line.step}  loss {line.loss:.4f}  rate {line.rate:.2e}  {line.tokens_per_second:.0f} tokens/s"
        f"  {line.memory / 1e9:.2f} GB  {line.seconds:.0f} s{valid}",
        file=sys.stderr,
        flush=True,
    )


@contextmanager
def stopping() -> Iterator:  # type: ignore[type-arg]
    """Ctrl-C asks the run to stop after its step; a second one stops it at once."""
    asked = False

    def ask(number: int, frame: object) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        print("stopping after this step", file=sys.stderr, flush=True)

    before = {one: signal.signal(one, ask) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: asked
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)
