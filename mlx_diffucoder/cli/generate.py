"""`diffucode generate`: write code from a description."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config import HOLES, GenerationConfig
from ..errors import ConfigError, ExecutionError
from . import options
from .cluster import Cluster, machines_of
from .command import Command, examples
from .terminal import code_of, print_numbers, put, put_bytes, put_json, read_prompt

if TYPE_CHECKING:
    from ..best_of import Ranked, Ranking
    from ..cluster.machines import Machines
    from ..decoding.result import Stats
    from ..evaluation import Limits
    from ..tasks import Task
    from .model_option import Opened

in_best = options.panel("Several answers and templates")
PromptText = Annotated[str | None, typer.Argument(help="What to write. Piped text is added after it.")]
Count = Annotated[int, in_best("-n", min=1, max=1024, help="Write this many answers in one batch.")]
Rank = Annotated[bool, in_best("--rank", help="Print only the most probable answer.")]
Tests = Annotated[Path | None, in_best(help="Print the first answer that passes these tests: Python, or a task file.")]
Allow = Annotated[bool, in_best("--allow-code-execution", help=options.CODE_EXECUTION)]
Sandbox = Annotated[str, in_best(help=options.SANDBOX, autocompletion=options.among(options.SANDBOXES))]
Lock = Annotated[
    Path | None,
    in_best(
        help="Fill the holes (<FILL>) of this template and keep its text; a hole is 64 tokens long at most, or --max-tokens."
    ),
]

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
    revision: options.Revision = None,
    refresh: options.Refresh = False,
    yes: options.Yes = False,
    shard: options.Shard = None,
    count: Count = 1,
    rank: Rank = False,
    tests: Tests = None,
    allow_code_execution: Allow = False,
    sandbox: Sandbox = "auto",
    lock: Lock = None,
    cluster: Cluster = None,
    preset: options.Preset = None,
    rule: options.Rule = "auto",
    window: options.Window = "auto",
    max_tokens: options.UsualMaxTokens = None,
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
    tile: options.Tile = 32,
    quiet: options.Quiet = False,
    live: options.Live = True,
    trace: options.TraceOut = None,
) -> int:
    """Write code from a description.

    A terminal shows the canvas while it is denoised, then the answer as plain text. A pipe gets the answer from left to right
    as it becomes final.
    """
    _check(context)
    return _generate(context, options.decoding_config(context, {} if lock is None else HOLES), read_prompt(prompt))


def _check(context: typer.Context) -> None:
    """Raise an error for options that do not go together."""
    given = context.params
    tests, several = given["tests"] is not None, given["count"] > 1 or given["lock"] is not None
    options.require_code_execution(given["allow_code_execution"] or not tests, "--tests")
    options.refuse_idle(context, "--tests", ["sandbox"], given=tests)
    options.refuse_idle(context, "-n 2 or more", ["rank"], given=several)
    options.refuse_idle(context, "-n 2 or more", ["cluster"], given=given["count"] > 1)
    options.refuse_idle(context, "-v or --json", ["tile"], given=given["verbose"] or given["as_json"])


def _generate(context: typer.Context, config: GenerationConfig, prompt: str) -> int:
    from ..run import Run
    from ..trace.writer import check_trace
    from .model_option import open_model
    from .progress import follow

    given = context.params
    if given["lock"] is not None and (given["count"] > 1 or given["rank"] or given["tests"] is not None):
        raise ConfigError("--lock fills one template; -n, --rank and --tests are for answers", field="--lock")
    if given["trace"]:
        check_trace(given["trace"])
    with machines_of(given) as machines:
        opened = open_model(context, config, verbose=given["verbose"], lazy=machines is not None)
        if given["count"] > 1 or given["rank"] or given["tests"]:
            return _best_of(opened, prompt, given, machines)
    if given["lock"]:
        return _fill(opened, prompt, given)
    run = Run(*opened, prompt, trace=given["trace"], tile=given["tile"])
    stop, lines = follow(run, stream=not given["as_json"], live=given["live"])
    if given["as_json"]:
        put_json(run.report(interrupted=stop is not None))
    if given["verbose"]:
        print_numbers({**run.stats.lines(), **lines})
    return code_of(stop) if stop else 0


def _best_of(opened: "Opened", prompt: str, given: dict[str, Any], machines: "Machines | None") -> int:
    """Write several answers and print them, or only the best. Returns the exit code.

    Raises:
        ExecutionError: no answer passes the tests.
    """
    from ..best_of import best_of, read_tests
    from ..generation import prompt_ids
    from ..run import stats_of
    from ..trace.writer import trace_writer
    from .progress import waiting

    name, model, tokenizer, config = opened
    count, tests = given["count"], given["tests"]
    task, limits = (read_tests(tests, prompt), options.limits_of(given)) if tests else (None, None)
    ids, start = prompt_ids(model, tokenizer, prompt, config), time.perf_counter()
    with trace_writer(given["trace"], tokenizer, config, name) as trace:
        if task and limits:
            options.tell_sandbox(limits, given)
        if machines:
            ranking = _spread(opened, ids, given, machines, (task, limits))
        else:
            with waiting(f"writing {count} answers"):
                ranking = best_of(model, tokenizer, ids, config, count, trace)
        seconds = time.perf_counter() - start
        if task and limits and machines is None:
            with waiting("running the tests"):
                ranking = ranking.tested(task, limits)
        best = ranking.answers[0]
        failed = best.passed is False
        if trace and not failed:
            trace.kept = best.row
    stats = stats_of(ranking, seconds, given["tile"])
    if given["as_json"]:
        _print_json(opened, stats, answers=[_row(one) for one in ranking.answers])
    elif failed:
        raise ExecutionError(f"none of the {count} answers passes {tests}; ask for more with -n, or see them with --json")
    elif given["rank"] or task is not None:
        put(best.answer.text.removesuffix("\n"))
    else:
        _print_answers(ranking.answers, canvases=trace is not None)
    if given["verbose"]:
        print_numbers(stats.lines())
    return 1 if failed else 0


def _spread(
    opened: "Opened", ids: list[int], given: dict[str, Any], machines: "Machines", tests: "tuple[Task | None, Limits | None]"
) -> "Ranking":
    """The answers from the machines of a cluster, with the results of their tests."""
    from ..cluster.best_of import spread_best_of
    from ..cluster.evaluation import limits_there
    from ..cluster.models import ModelRef
    from .progress import counting

    ref, count = ModelRef.of(opened.name, opened.model, given["adapter"]), given["count"]
    task, limits = tests
    there = (task, limits_there(limits, given["sandbox"])) if task and limits else None
    with counting("writing answers", count, machines) as advance:
        return spread_best_of(machines, ref, ids, opened.config, count, there, advance)


def _fill(opened: "Opened", prompt: str, given: dict[str, Any]) -> int:
    """Fill the holes of a template, with the prompt before it, and print it. Returns the exit code."""
    from ..infilling.file import cut, named, read_bytes
    from ..infilling.fill import fill
    from ..run import stats_of
    from ..trace.writer import trace_writer
    from .progress import waiting

    file = cut(str(given["lock"]), read_bytes(given["lock"]), "<FILL>", None, None)
    name, model, tokenizer, config = opened
    start = time.perf_counter()
    with waiting("filling"), named(file.name), trace_writer(given["trace"], tokenizer, config, name) as trace:
        filled = fill(model, tokenizer, file.parts, config, instruction=prompt, trace=trace)
    stats = stats_of(filled, time.perf_counter() - start, given["tile"])
    after = file.filled(filled.holes)
    if given["as_json"]:
        _print_json(opened, stats, text=after.decode(file.encoding), holes=filled.holes, score=filled.score)
    else:
        put_bytes(after, file.encoding)
    if given["verbose"]:
        print_numbers(stats.lines())
    return 0


def _print_json(opened: "Opened", stats: "Stats", **results: Any) -> None:
    about = {"model": opened.name, **stats.to_dict(), "config": opened.config.to_dict()}
    put_json({**results, **about})


def _print_answers(answers: "list[Ranked]", *, canvases: bool) -> None:
    for place, one in enumerate(answers, start=1):
        canvas = f", canvas {one.row}" if canvases else ""
        put(f"{'' if place == 1 else chr(10)}# answer {place}{canvas}, mean log-probability {one.score:.3g}")
        put(one.answer.text.removesuffix("\n"))


def _row(one: "Ranked") -> dict[str, Any]:
    """An answer as `--json` prints it."""
    answer = one.answer
    row = {"text": answer.text, "score": one.score, "useful_tokens": answer.useful_tokens, "canvas": one.row}
    row["finish_reason"] = "stop" if answer.ended else "length"
    return row if one.passed is None else {**row, "passed": one.passed}
