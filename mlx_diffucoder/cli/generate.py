"""`diffucode generate`: write code from a description."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config import GenerationConfig
from .command import Command, examples
from .options import (
    Adapter,
    Algorithm,
    AlgorithmTemperature,
    BanTokens,
    Dtype,
    Eps,
    Json,
    Live,
    MaxTokens,
    Model,
    Prefill,
    Preset,
    Quiet,
    Raw,
    Reference,
    Rule,
    Seed,
    Steps,
    System,
    Temperature,
    TopK,
    TopP,
    TraceOut,
    Tuned,
    Until,
    Verbose,
    Window,
    Yes,
    decoding_config,
)
from .several import Choice, Several
from .terminal import code_of, is_file, is_live, print_numbers, read_prompt

if TYPE_CHECKING:
    from ..decoding.canvas import Canvas
    from ..decoding.result import Stats, Step
    from ..generation import Prompt
    from ..models.transformer import DiffusionModel
    from ..tokenizer import Tokenizer


BEST = "Several answers and templates"
PromptText = Annotated[str | None, typer.Argument(help="What to write. Piped text is added after it.", show_default=False)]
Count = Annotated[int, typer.Option("-n", min=1, max=1024, help="Write this many answers in one batch.", rich_help_panel=BEST)]
Rank = Annotated[bool, typer.Option("--rank", help="Print only the most probable answer.", rich_help_panel=BEST)]
Tests = Annotated[
    Path | None,
    typer.Option(
        help="Print the first answer that passes these tests: Python, or a task file.", show_default=False, rich_help_panel=BEST
    ),
]
Allow = Annotated[
    bool, typer.Option("--allow-code-execution", help="Run the model's code here, without a sandbox.", rich_help_panel=BEST)
]
Lock = Annotated[
    Path | None,
    typer.Option(help="Fill the holes (<FILL>) of this template and keep its text.", show_default=False, rich_help_panel=BEST),
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
    model: Model = None,
    dtype: Dtype = None,
    adapter: Adapter = None,
    yes: Yes = False,
    count: Count = 1,
    rank: Rank = False,
    tests: Tests = None,
    allow_code_execution: Allow = False,
    lock: Lock = None,
    preset: Preset = None,
    rule: Rule = "auto",
    window: Window = "auto",
    max_tokens: MaxTokens = 256,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    seed: Seed = None,
    system: System = None,
    prefill: Prefill = "",
    until: Until = None,
    ban_tokens: BanTokens = None,
    raw: Raw = False,
    steps: Steps = None,
    alg: Algorithm = "entropy",
    alg_temp: AlgorithmTemperature = 0.0,
    eps: Eps = 1e-3,
    reference: Reference = False,
    tuned: Tuned = True,
    as_json: Json = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    live: Live = True,
    trace: TraceOut = None,
) -> int:
    """Write code from a description.

    A terminal shows the canvas while it is denoised, then the answer as plain text. A pipe gets the answer from left to right
    as it becomes final; with a rule that masks tokens again, it gets the answer at the end.
    """
    config, text = decoding_config(context), read_prompt(prompt)
    choice = Choice(count, rank, tests, lock)
    choice.check(allow_code_execution=allow_code_execution)
    return _generate(context, text, config, choice, as_json=as_json, verbose=verbose, live=live, trace=trace)


def _generate(
    context: typer.Context,
    prompt: str,
    config: GenerationConfig,
    choice: Choice,
    *,
    as_json: bool,
    verbose: bool,
    live: bool,
    trace: Path | None,
) -> int:
    from ..trace.writer import check_trace
    from .model_option import open_model

    if trace:
        check_trace(trace)
    name, model, tokenizer, config = open_model(context, config, verbose=verbose)
    if choice:
        several = Several(model, tokenizer, name, config, choice, trace)
        return (several.fill if choice.lock else several.go)(prompt, as_json=as_json, verbose=verbose)
    run = Run(model, tokenizer, prompt, config, stream=not as_json, live=live, trace=(trace, name) if trace else None)
    stop = run.go()
    if as_json:
        print(json.dumps(run.report(name, interrupted=stop is not None), ensure_ascii=False))
    if verbose:
        run.print_numbers()
    return code_of(stop) if stop else 0


class Run:
    """One generation: shows the canvas on a terminal or streams the text, and then has the numbers.

    Args:
        stream: print the text on stdout.
        live: show the canvas if stdout and stderr are terminals.
        trace: the file to write the steps to, and the model's name for it.
    """

    def __init__(
        self,
        model: "DiffusionModel",
        tokenizer: "Tokenizer",
        prompt: "Prompt",
        config: GenerationConfig,
        *,
        stream: bool,
        live: bool = False,
        trace: tuple[Path, str] | None = None,
    ):
        from ..decoding.rules import rule_for
        from ..generation import Answer, prompt_ids

        self.model, self.tokenizer, self.config, self.stream, self.trace = model, tokenizer, config, stream, trace
        self.live = is_live(live and stream)
        # A rule that masks tokens again may change text that was final.
        self.streams = stream and not self.live and rule_for(config).max_commits == 1
        self.ids = prompt_ids(model, tokenizer, prompt, config)
        self.answer = Answer()
        self.last: Step | None = None
        self.seconds = self.drawing = 0.0

    def go(self) -> KeyboardInterrupt | None:
        """Generate. Returns the Ctrl-C or SIGTERM that stopped it, if one did."""
        from ..generation import Answer, stream_traced

        coming = stream_traced(self.model, self.tokenizer, self.ids, self.config, self.trace)
        written = ""
        stopped = None
        start = time.perf_counter()
        try:
            with self._view() as show, closing(coming) as steps:
                start = time.perf_counter()  # without the time to import the view
                for step in steps:
                    self.last, self.answer = step, Answer.of(self.tokenizer, step, len(self.ids), self.config)
                    show(step)
                    if self.streams:
                        text = self.answer.final_text(self.config.until)
                        print(text[len(written) :], end="", flush=True)
                        written = text
        except KeyboardInterrupt as stop:
            stopped = stop
        self.seconds = time.perf_counter() - start
        if self.stream:
            rest = self.answer.text[len(written) :]
            print(rest, end="" if (written + rest).endswith("\n") else "\n", flush=True)
        return stopped

    @property
    def stats(self) -> "Stats":
        import mlx.core as mx

        from ..decoding.result import Stats

        return Stats(
            nfe=self.last.nfe if self.last else 0,
            positions=self.last.positions if self.last else 0,
            useful_tokens=self.answer.useful_tokens,
            seconds=self.seconds,
            peak_memory_bytes=mx.get_peak_memory(),
        )

    def report(self, name: str, *, interrupted: bool) -> dict[str, Any]:
        """The object that `--json` prints."""
        return {
            "text": self.answer.text,
            "tokens": self.answer.ids,
            "finish_reason": "interrupted" if interrupted else "stop" if self.answer.ended else "length",
            "unresolved_masks": self.answer.unresolved_masks,
            "model": name,
            "prompt_tokens": len(self.ids),
            **self.stats.to_dict(),
            "config": self.config.to_dict(),
        }

    def print_numbers(self) -> None:
        """Print the numbers of `-v` on stderr."""
        lines = self.stats.lines()
        if self.live:
            lines["drawing the canvas"] = f"{100 * self.drawing / self.seconds:.2f} % of the time"
        print_numbers(lines)

    def _canvas(self) -> "Canvas":
        from ..generation import canvas_of

        return canvas_of(self.tokenizer, [self.ids], self.config)

    @contextmanager
    def _view(self) -> "Iterator[Callable[[Step], None]]":
        """Show the canvas, or else a bar on stderr, unless the answer itself may appear on the same terminal."""
        if self.live:
            from .live_view import Live

            given = len(self.tokenizer.encode_plain(self.config.prefill))
            with Live(self._canvas(), self.tokenizer.piece, given) as view:
                try:
                    yield view.show
                finally:
                    self.drawing = view.spent
        elif not sys.stderr.isatty() or (self.streams and not is_file(sys.stdout)):
            yield lambda step: None
        else:
            from .progress import counting

            with counting("denoising", self.config.max_tokens) as advance:
                yield lambda step: advance(len(step.committed) - len(step.remasked))
