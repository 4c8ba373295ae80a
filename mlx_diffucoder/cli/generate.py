"""`diffucode generate`: a prompt in, code out."""

import json
import sys
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config import ALGORITHMS, GenerationConfig

if TYPE_CHECKING:
    from ..generation import Prompt
    from ..model import Dream
    from ..tokenizer import Tokenizer
    from ..trace import Stats, Step

DEFAULTS = GenerationConfig()


def generate(
    prompt: Annotated[str | None, typer.Argument(help="What to write. Piped text is put below it.", show_default=False)] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            envvar="DIFFUCODE_MODEL",
            show_default=False,
            help='A folder, a Hub id, or "pocket" (bundled). With none: the 8-bit DiffuCoder-7B-cpGRPO.',
        ),
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="The longest answer, in tokens.")] = DEFAULTS.max_tokens,
    steps: Annotated[int | None, typer.Option(help="Denoising steps.", show_default="one a token")] = DEFAULTS.steps,
    alg: Annotated[str, typer.Option(help=f"What is committed first: {', '.join(ALGORITHMS)}.")] = DEFAULTS.alg,
    temp: Annotated[float, typer.Option(help="Temperature; 0 takes the most probable token.")] = DEFAULTS.temperature,
    top_p: Annotated[float, typer.Option(help="Nucleus: drop tokens past this probability.")] = DEFAULTS.top_p,
    top_k: Annotated[int, typer.Option(help="Keep the k most probable tokens; 0 keeps all.")] = DEFAULTS.top_k,
    alg_temp: Annotated[float, typer.Option(help="Above 0: draw the positions to commit.")] = DEFAULTS.alg_temp,
    eps: Annotated[float, typer.Option(help="Where the schedule's timesteps end.")] = DEFAULTS.eps,
    seed: Annotated[int | None, typer.Option(help="Makes a draw repeatable.", show_default=False)] = DEFAULTS.seed,
    raw: Annotated[bool, typer.Option("--raw", help="No chat template; special tokens in the prompt count.")] = DEFAULTS.raw,
    system: Annotated[str | None, typer.Option(help="System message.", show_default=False)] = DEFAULTS.system,
    reference: Annotated[
        bool, typer.Option("--reference", help="Apple's decoder to the letter, its quirks too.")
    ] = DEFAULTS.reference,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, with the numbers.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print the numbers on stderr.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Download without asking.")] = False,
) -> int:
    """Write code from a description.

    The answer streams to stdout as it settles from the left.

    Example: diffucode generate -m pocket --max-tokens 64 "Write a function f(x) that returns x squared."
    """
    config = GenerationConfig(
        max_tokens=max_tokens,
        steps=steps,
        alg=alg,
        temperature=temp,
        top_p=top_p,
        top_k=top_k,
        alg_temp=alg_temp,
        eps=eps,
        seed=seed,
        raw=raw,
        system=system,
        reference=reference,
    )
    from .prompt import read_prompt

    text = read_prompt(prompt)
    from .models import load_named

    name, network, tokenizer = load_named(model, yes=yes)
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
        from ..generation import prompt_ids

        self.model, self.tokenizer, self.config, self.stream = model, tokenizer, config, stream
        self.ids = prompt_ids(model, tokenizer, prompt, config)
        self.last: Step | None = None
        self.seconds = 0.0

    def go(self) -> bool:
        """Generate; returns whether Ctrl-C stopped it."""
        from ..generation import answer_text, stream_generate

        written = ""
        interrupted = False
        start = time.perf_counter()
        try:
            with self._progress() as advance:
                for step in stream_generate(self.model, self.tokenizer, self.ids, self.config):
                    self.last = step
                    advance(len(step.committed))
                    if self.stream:
                        # A character whose bytes are not all settled yet decodes to U+FFFD.
                        text = answer_text(self.tokenizer, step, len(self.ids)).rstrip("\ufffd")
                        print(text[len(written) :], end="", flush=True)
                        written = text
        except KeyboardInterrupt:
            interrupted = True
        self.seconds = time.perf_counter() - start
        if self.stream:
            rest = self.text[len(written) :]
            print(rest, end="" if (written + rest).endswith("\n") else "\n", flush=True)
        return interrupted

    @property
    def text(self) -> str:
        from ..generation import answer_text

        return "" if self.last is None else answer_text(self.tokenizer, self.last, len(self.ids))

    @property
    def stats(self) -> "Stats":
        import mlx.core as mx
        import numpy as np

        from ..canvas import useful_tokens
        from ..trace import Stats

        answer = self.last.tokens[len(self.ids) :] if self.last else np.array([], dtype=np.int32)
        return Stats(
            nfe=self.last.nfe if self.last else 0,
            positions=self.last.positions if self.last else 0,
            useful_tokens=useful_tokens(answer, mask_id=self.tokenizer.mask_id, end_ids=self.tokenizer.end_ids),
            seconds=self.seconds,
            peak_memory_bytes=mx.get_peak_memory(),
        )

    def report(self, name: str, interrupted: bool) -> dict[str, Any]:
        """What `--json` prints."""
        from ..canvas import settled

        ids, ended = [], False
        if self.last is not None:
            found, ended = settled(
                self.last.tokens[len(self.ids) :], mask_id=self.tokenizer.mask_id, end_ids=self.tokenizer.end_ids
            )
            ids = found.tolist()
        reason = "interrupted" if interrupted else "stop" if ended else "length"
        return {
            "text": self.text,
            "tokens": ids,
            "finish_reason": reason,
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
        if not sys.stderr.isatty() or (self.stream and sys.stdout.isatty()):
            return nullcontext(lambda committed: None)
        from .progress import counting

        return counting("denoising", self.config.max_tokens)
