"""`diffucode generate`: a prompt in, code out."""

import json
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config import GenerationConfig
from .options import Dtype, Model, Yes, decodes
from .several import Choice, Several

if TYPE_CHECKING:
    from ..generation import Prompt
    from ..model import Dream
    from ..tokenizer import Tokenizer
    from ..trace import Stats, Step


@decodes
def generate(
    prompt: Annotated[str | None, typer.Argument(help="What to write. Piped text is put below it.", show_default=False)] = None,
    model: Model = None,
    dtype: Dtype = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, with the numbers.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print the numbers on stderr.")] = False,
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
    yes: Yes = False,
    *,
    config: GenerationConfig,
) -> int:
    """Write code from a description.

    The answer streams to stdout as it settles from the left; with a rule that takes tokens back, it comes at the end.

    Example: diffucode generate -m pocket --max-tokens 64 "Implement process(k): return whether k is a prime number."
    """
    from .prompt import read_prompt

    text = read_prompt(prompt)
    choice = Choice(count, rank, tests, lock)
    choice.check(allow_code_execution=allow_code_execution)
    from .models import load_named

    name, network, tokenizer = load_named(model, yes=yes, dtype=dtype)
    if choice:
        several = Several(network, tokenizer, name, config, choice)
        return (several.fill if lock else several.go)(text, as_json=as_json, verbose=verbose)
    run = Run(network, tokenizer, text, config, stream=not as_json)
    interrupted = run.go()
    if as_json:
        print(json.dumps(run.report(name, interrupted), ensure_ascii=False))
    if verbose:
        run.print_numbers()
    return 130 if interrupted else 0


class Run:
    """One generation: its text on stdout as it settles, its numbers afterwards."""

    def __init__(self, model: "Dream", tokenizer: "Tokenizer", prompt: "Prompt", config: GenerationConfig, *, stream: bool):
        from ..generation import Answer, prompt_ids
        from ..rules import policy_for

        self.model, self.tokenizer, self.config, self.stream = model, tokenizer, config, stream
        # A rule that takes commits back may take back what has settled.
        self.streams = stream and policy_for(config).rounds == 1
        self.ids = prompt_ids(model, tokenizer, prompt, config)
        self.answer = Answer()
        self.last: Step | None = None
        self.seconds = 0.0

    def go(self) -> bool:
        """Generate; returns whether Ctrl-C stopped it."""
        from ..generation import Answer, stream_generate

        written = ""
        interrupted = False
        start = time.perf_counter()
        try:
            with self._progress() as advance:
                for step in stream_generate(self.model, self.tokenizer, self.ids, self.config):
                    self.last, self.answer = step, Answer.of(self.tokenizer, step, len(self.ids), self.config)
                    advance(len(step.committed) - len(step.remasked))
                    if self.streams:
                        text = self.answer.sure(self.config.until)
                        print(text[len(written) :], end="", flush=True)
                        written = text
        except KeyboardInterrupt:
            interrupted = True
        self.seconds = time.perf_counter() - start
        if self.stream:
            rest = self.answer.text[len(written) :]
            print(rest, end="" if (written + rest).endswith("\n") else "\n", flush=True)
        return interrupted

    @property
    def stats(self) -> "Stats":
        import mlx.core as mx

        from ..trace import Stats

        return Stats(
            nfe=self.last.nfe if self.last else 0,
            positions=self.last.positions if self.last else 0,
            useful_tokens=self.answer.useful_tokens,
            seconds=self.seconds,
            peak_memory_bytes=mx.get_peak_memory(),
        )

    def report(self, name: str, interrupted: bool) -> dict[str, Any]:
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
        stats = self.stats
        lines = {
            "forwards (NFE)": f"{stats.nfe}",
            "positions forwarded": f"{stats.positions}",
            "useful tokens": f"{stats.useful_tokens}",
            "useful tokens per forward": f"{stats.tokens_per_forward:.2f}",
            "positions per useful token": f"{stats.positions_per_useful_token:.1f}",
            "useful tokens per second": f"{stats.tokens_per_second:.1f}  ({stats.seconds:.2f} s)",
            "peak memory": f"{stats.peak_memory_bytes / 1e9:.2f} GB",
        }
        for label, value in lines.items():
            print(f"{label:>27}  {value}", file=sys.stderr)

    def _progress(self) -> Any:
        """A bar on a terminal's stderr, unless the answer itself is on the screen."""
        if not sys.stderr.isatty() or (self.streams and sys.stdout.isatty()):
            return nullcontext(lambda committed: None)
        from .progress import counting

        return counting("denoising", self.config.max_tokens)
