"""`diffucode generate`: write code from a description."""

import json
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config import HOLES, PRESETS, GenerationConfig
from ..errors import ConfigError, ExecutionError
from . import options
from .command import Command, examples
from .run import Run, stats_of
from .terminal import code_of, print_numbers, read_prompt

if TYPE_CHECKING:
    from ..best_of import Ranked
    from ..models.transformer import DiffusionModel
    from ..tokenizer import Tokenizer

in_best = options.panel("Several answers and templates")
PromptText = Annotated[str | None, typer.Argument(help="What to write. Piped text is added after it.")]
Count = Annotated[int, in_best("-n", min=1, max=1024, help="Write this many answers in one batch.")]
Rank = Annotated[bool, in_best("--rank", help="Print only the most probable answer.")]
Tests = Annotated[Path | None, in_best(help="Print the first answer that passes these tests: Python, or a task file.")]
Allow = Annotated[bool, in_best("--allow-code-execution", help="Run the model's code here, without a sandbox.")]
Lock = Annotated[Path | None, in_best(help="Fill the holes (<FILL>) of this template and keep its text.")]

app = typer.Typer()


@app.command(
    cls=Command,
    epilog=examples(
        'diffucode generate -m pocket "Write f(s): return s reversed."',
        'cat spec.txt | diffucode generate -m pocket "Implement this:"',
        'diffucode generate -m pocket --json "Write f(s)." | jq .text',
    ),
)
def generate(
    context: typer.Context,
    prompt: PromptText = None,
    model: options.Model = None,
    dtype: options.Dtype = None,
    adapter: options.Adapter = None,
    yes: options.Yes = False,
    count: Count = 1,
    rank: Rank = False,
    tests: Tests = None,
    allow_code_execution: Allow = False,
    lock: Lock = None,
    preset: options.Preset = None,
    rule: options.Rule = "auto",
    window: options.Window = "auto",
    max_tokens: options.MaxTokens = 256,
    temperature: options.Temperature = 0.0,
    top_p: options.TopP = 1.0,
    top_k: options.TopK = 0,
    seed: options.Seed = None,
    system: options.System = None,
    prefill: options.Prefill = "",
    until: options.Until = None,
    ban_tokens: options.BanTokens = None,
    raw: options.Raw = False,
    steps: options.Steps = None,
    alg: options.Algorithm = "entropy",
    alg_temp: options.AlgorithmTemperature = 0.0,
    eps: options.Eps = 1e-3,
    reference: options.Reference = False,
    tuned: options.Tuned = True,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
    quiet: options.Quiet = False,
    live: options.Live = True,
    trace: options.TraceOut = None,
) -> int:
    """Write code from a description.

    A terminal shows the canvas while it is denoised, then the answer as plain text. A pipe gets the answer from left to right
    as it becomes final; with a rule that masks tokens again, it gets the answer at the end.
    """
    config, text = options.decoding_config(context), read_prompt(prompt)
    if lock is not None and (count > 1 or rank or tests is not None):
        raise ConfigError("--lock fills one template; -n, --rank and --tests are for answers")
    if tests is not None:
        options.require_code_execution(allow_code_execution, "--tests")
    return _generate(context, text, config, as_json=as_json, verbose=verbose)


def _generate(context: typer.Context, prompt: str, config: GenerationConfig, *, as_json: bool, verbose: bool) -> int:
    from ..trace.writer import check_trace
    from .model_option import open_model

    given = context.params
    if trace := given["trace"]:
        check_trace(trace)
    name, model, tokenizer, config = open_model(context, config, verbose=verbose)
    if given["lock"] or given["count"] > 1 or given["rank"] or given["tests"]:
        batch = Batch(model, tokenizer, name, config, trace)
        if given["lock"]:
            return batch.fill(given["lock"], prompt, as_json=as_json, verbose=verbose)
        return batch.best_of(prompt, given["count"], given["tests"], rank=given["rank"], as_json=as_json, verbose=verbose)
    run = Run(model, tokenizer, prompt, config, stream=not as_json, live=given["live"], trace=(trace, name) if trace else None)
    stop = run.go()
    if as_json:
        print(json.dumps(run.report(name, interrupted=stop is not None), ensure_ascii=False))
    if verbose:
        run.print_numbers()
    return code_of(stop) if stop else 0


@dataclass(frozen=True)
class Batch:
    """Several answers to one prompt, or a template with holes.

    Attributes:
        name: the model's name.
        trace: the file to write the steps to.
    """

    model: "DiffusionModel"
    tokenizer: "Tokenizer"
    name: str
    config: GenerationConfig
    trace: Path | None

    def best_of(self, prompt: str, count: int, tests: Path | None, *, rank: bool, as_json: bool, verbose: bool) -> int:
        """Write several answers and print them, or only the best. Returns the exit code.

        Raises:
            ExecutionError: no answer passes the tests.
        """
        from ..best_of import best_of, read_tests
        from ..generation import prompt_ids
        from ..trace.writer import trace_writer
        from .progress import waiting

        task = read_tests(tests, prompt) if tests else None
        ids, start = prompt_ids(self.model, self.tokenizer, prompt, self.config), time.perf_counter()
        with trace_writer(self.trace, self.tokenizer, self.config, self.name) as trace:
            with waiting(f"writing {count} answers"):
                ranking = best_of(self.model, self.tokenizer, ids, self.config, count, trace)
            seconds = time.perf_counter() - start
            if task:
                with waiting("running the tests"):
                    ranking = ranking.tested(task)
            failed = ranking.answers[0].passed is False
            if trace and not failed:
                trace.kept = ranking.answers[0].row
        numbers = (ranking.nfe, ranking.positions, ranking.useful_tokens, seconds)
        if as_json:
            self._print_json(numbers, answers=[_row(one) for one in ranking.answers])
        elif failed:
            raise ExecutionError(f"none of the {count} answers passes {tests}; ask for more with -n, or see them with --json")
        elif rank or task is not None:
            print(ranking.answers[0].answer.text.removesuffix("\n"))
        else:
            self._print_answers(ranking.answers)
        if verbose:
            print_numbers(stats_of(*numbers).lines())
        return 1 if failed else 0

    def fill(self, path: Path, prompt: str, *, as_json: bool, verbose: bool) -> int:
        """Fill the holes of a template, with the prompt before it, and print it. Returns the exit code."""
        from ..infilling.file import cut, named, read_bytes
        from ..infilling.fill import fill
        from ..trace.writer import trace_writer
        from .progress import waiting

        file = cut(str(path), read_bytes(path), "<FILL>", None, None)
        # A window that covers a whole hole and the text after it, unless the user asks for another.
        usual = self.config.window == PRESETS["balanced"]["window"]
        config, start = replace(self.config, window=HOLES["window"]) if usual else self.config, time.perf_counter()
        with waiting("filling"), named(file.name), trace_writer(self.trace, self.tokenizer, config, self.name) as trace:
            filled = fill(self.model, self.tokenizer, file.parts, config, instruction=prompt, trace=trace)
        numbers = (filled.nfe, filled.positions, filled.useful_tokens, time.perf_counter() - start)
        after = file.filled(filled.holes)
        if as_json:
            self._print_json(numbers, text=after.decode(file.encoding), holes=filled.holes, score=filled.score)
        else:
            sys.stdout.buffer.write(after)
            sys.stdout.buffer.flush()
        if verbose:
            print_numbers(stats_of(*numbers).lines())
        return 0

    def _print_json(self, numbers: tuple[int, int, int, float], **results: Any) -> None:
        about = {"model": self.name, **stats_of(*numbers).to_dict(), "config": self.config.to_dict()}
        print(json.dumps({**results, **about}, ensure_ascii=False))

    def _print_answers(self, answers: "list[Ranked]") -> None:
        for place, one in enumerate(answers, start=1):
            canvas = f", canvas {one.row}" if self.trace else ""
            print(f"{'' if place == 1 else chr(10)}# answer {place}{canvas}, mean log-probability {one.score:.3g}")
            print(one.answer.text.removesuffix("\n"))


def _row(one: "Ranked") -> dict[str, Any]:
    """An answer as `--json` prints it."""
    answer = one.answer
    row = {"text": answer.text, "score": one.score, "useful_tokens": answer.useful_tokens, "canvas": one.row}
    row["finish_reason"] = "stop" if answer.ended else "length"
    return row if one.passed is None else {**row, "passed": one.passed}
