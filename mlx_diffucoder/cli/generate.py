"""`diffucode generate`: a prompt in, code out."""

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
    wants_tuned,
)
from .several import Choice, Several
from .terminal import code_of, is_file, is_live, read_prompt

if TYPE_CHECKING:
    from ..decoding.canvas import Canvas
    from ..decoding.result import Stats, Step
    from ..generation import Prompt
    from ..models.transformer import DiffusionModel
    from ..tokenizer import Tokenizer


ANSWERS = "Several answers, templates"
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
    prompt: Annotated[str | None, typer.Argument(help="What to write. Piped text is put below it.", show_default=False)] = None,
    model: Model = None,
    dtype: Dtype = None,
    adapter: Adapter = None,
    yes: Yes = False,
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
    count: Annotated[int, typer.Option("-n", min=1, max=1024, help="Answers, in one batch.")] = 1,
    rank: Annotated[bool, typer.Option("--rank", help="With -n: only the answer the model finds most probable.")] = False,
    tests: Annotated[
        Path | None, typer.Option(help="With -n: the first that passes this Python, or this task's tests.", show_default=False)
    ] = None,
    allow_code_execution: Annotated[
        bool, typer.Option("--allow-code-execution", help="Run what the model writes on this machine; no sandbox.")
    ] = False,
    lock: Annotated[
        Path | None, typer.Option(help="A template: its text stays, its holes (<FILL>) are written.", show_default=False)
    ] = None,
    as_json: Json = False,
    verbose: Verbose = False,
    quiet: Quiet = False,
    live: Live = True,
    trace: TraceOut = None,
) -> int:
    """Write code from a description.

    On a terminal the canvas is shown while it is denoised, and then the answer as plain text. Piped, the answer streams as
    it settles from the left; with a rule that takes tokens back, it comes at the end.
    """
    config = decoding_config(context)

    text = read_prompt(prompt)
    choice = Choice(count, rank, tests, lock)
    choice.check(allow_code_execution=allow_code_execution)
    if trace:
        from ..trace.writer import check_trace

        check_trace(trace)
    from .model_option import load_named, with_tuned_window

    name, network, tokenizer = load_named(model, yes=yes, dtype=dtype, adapter=adapter)
    config = with_tuned_window(config, network, wanted=wants_tuned(context, tuned), verbose=verbose)
    if choice:
        several = Several(network, tokenizer, name, config, choice, trace)
        return (several.fill if lock else several.go)(text, as_json=as_json, verbose=verbose)
    run = Run(network, tokenizer, text, config, stream=not as_json, live=live, trace=(trace, name) if trace else None)
    stop = run.go()
    if as_json:
        print(json.dumps(run.report(name, interrupted=stop is not None), ensure_ascii=False))
    if verbose:
        run.print_numbers()
    return code_of(stop) if stop else 0


class Run:
    """One generation: its canvas on a terminal or its text on stdout as it settles, its numbers afterwards.

    Args:
        stream: print the text.
        live: show the canvas, where stdout and stderr are terminals.
        trace: the file to write its steps into, and what the model is called there.
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
        # A rule that takes commits back may take back what has settled.
        self.streams = stream and not self.live and rule_for(config).rounds == 1
        self.ids = prompt_ids(model, tokenizer, prompt, config)
        self.answer = Answer()
        self.last: Step | None = None
        self.seconds = self.drawing = 0.0

    def go(self) -> KeyboardInterrupt | None:
        """Generate; returns what stopped it, where something did."""
        from ..generation import Answer, stream_traced

        coming = stream_traced(self.model, self.tokenizer, self.ids, self.config, self.trace)
        written = ""
        stopped = None
        start = time.perf_counter()
        try:
            with self._view() as show, closing(coming) as steps:
                start = time.perf_counter()  # what the view imports is not the decoder's time
                for step in steps:
                    self.last, self.answer = step, Answer.of(self.tokenizer, step, len(self.ids), self.config)
                    show(step)
                    if self.streams:
                        text = self.answer.sure(self.config.until)
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
        """What `--json` prints."""
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
        """What `-v` prints, on stderr."""
        from .terminal import print_numbers

        lines = self.stats.lines()
        if self.live:
            lines["drawing the canvas"] = f"{100 * self.drawing / self.seconds:.2f} % of the time"
        print_numbers(lines)

    def _canvas(self) -> "Canvas":
        from ..generation import canvas_of

        return canvas_of(self.tokenizer, [self.ids], self.config)

    @contextmanager
    def _view(self) -> "Iterator[Callable[[Step], None]]":
        """The canvas, or a bar on a terminal's stderr, unless the answer itself comes on the screen, through a pipe maybe."""
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
