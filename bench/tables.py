"""The tables that `diffucode bench` prints, as lines of at most 80 columns."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from statistics import median
from typing import Any

from mlx_diffucoder.formatting import format_bytes, format_seconds, format_spread

from .baselines import SAME_WEIGHTS
from .ceilings import Ceilings
from .chip import Card
from .decoders import AUTOREGRESSIVE, TIME_BUDGET, Decoder, SideBySide, break_even_rate
from .roofline import published
from .run import Results
from .shapes import SHAPES
from .speed import LABELS
from .timing import spread_text
from .tuning import LOOSER, PRESET, Orders, Tuning, own_point

# The heads of the columns in three lines, and the columns' widths: 80 columns in all.
HEADS = (
    ("", "", "decoder"),
    ("useful", "tokens/s", "(least-most)"),
    ("times", "mlx-lm's", "(least-most)"),
    ("NFE", "per", "answer"),
    ("positions", "per", "token"),
    ("tokens", "per", "forward"),
)
WIDTHS = (20, 17, 17, 7, 10, 9)


def run_lines(results: Results, card: Card) -> Iterator[str]:
    """The results of `bench run`, after the machine's card."""
    report, model, rows = results.report, results.report["model"], results.report["decoders"]
    yield from card.lines()
    yield from results.ceilings.lines()
    yield f"{'model':10} {model['name']}: {format_bytes(model['bytes'])}, {model['bits_per_weight']:.2f} bits a weight"
    if shard := report["shard"]:
        each = f"{shard['exchange_rows']} rows takes {format_seconds(shard['exchange_seconds'])}"
        yield f"{'shard':10} {shard['shard']}, {shard['ranks']} processes; a forward has {shard['exchanges']} exchanges"
        yield f"{'':10} one of {each}; the ceilings are one machine's"
    yield f"{'':10} trials: {report['trials']}, in turns; the median (least to most)"
    yield f"{'':10} share: of the roofline, the speed that the ceilings allow"
    yield from _forwards(report["forwards"])
    yield from _step(report["step"])
    yield from details(rows)
    yield ""
    yield from decoder_table(rows)
    yield ""
    yield from notes(rows, results.answers, report)


def _forwards(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "\nforward, with cached text: rows, time, share"
    for row in rows:
        yield f"{row['rows']:9}  {_milliseconds(row['time'])}  {100 * row['roofline_share']:.0f} %"
    if max(row["roofline_share"] for row in rows) > 1:
        yield f"{'':9}  above 100 %: the weights fit the processor's cache, or the ceilings are too low"


def _step(step: dict[str, Any]) -> Iterator[str]:
    yield f"\nstep: {_milliseconds(step['step'])}, the mean of {step['steps']}"
    for part, seconds in step["parts"].items():
        yield f"{LABELS[part]:>9}  {format_seconds(seconds):>7}  {100 * seconds / sum(step['parts'].values()):.1f} %"
    middle, low, high = (100 * step["sum_over_step"][key] for key in ("median", "low", "high"))
    yield f"{'gap':>9}  {_milliseconds(step['gap'])}, until the host queues the next forward"
    yield f"{'':9}  the parts, timed one by one, add up to {middle:.0f} % ({low:.0f} to {high:.0f}) of a step"
    yield f"first forward, with a prompt of {step['prompt']} tokens: {_milliseconds(step['encoding'])}"


def details(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Each answer of the decoders whose kind is `diffusion`."""
    for row in (row for row in rows if row["kind"] == "diffusion"):
        for number, one in enumerate(row["generations"], start=1):
            first, tokens, seconds = one["first_settled"], one["useful_tokens"], one["time"]["seconds"]
            yield f"\n{row['name']}, answer {number}: {_milliseconds(one['time'])}"
            yield f"{one['nfe']:9} forwards (NFE) of {one['positions']} positions, prompt of {one['prompt_tokens']} tokens"
            yield f"{tokens:9} useful tokens, {tokens / seconds:.1f} useful tokens/s"
            yield f"{tokens / one['nfe'] if one['nfe'] else 0:9.2f} useful tokens per forward"
            if tokens:
                yield f"{one['positions'] / tokens:9.1f} positions per useful token"
            yield f"{format_seconds(first['seconds']):>9} to the first final token"
            yield f"{format_bytes(one['peak_memory_bytes']):>9} of memory at most"
            yield f"{100 * one['roofline_share']:9.0f} % of the roofline"


def decoder_table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """The decoders side by side, a line each."""
    answers = len(rows[0]["generations"])
    each = "1 answer" if answers == 1 else f"{answers} answers"
    yield f"side by side, {each} each, in turns; medians; only useful tokens count"
    for line in zip(*HEADS, strict=True):
        yield _line(line)
    for row in rows:
        per_token = row["positions_per_useful_token"]
        yield _line(
            (
                row["name"],
                spread_text(row["useful_tokens_per_second"]),
                "" if row["ratio"] is None else "1" if row["kind"] == AUTOREGRESSIVE else spread_text(row["ratio"]),
                f"{row['nfe'] / answers:.1f}",
                "" if per_token is None else f"{per_token:.1f}",
                f"{row['tokens_per_forward']:.2f}",
            )
        )


def notes(rows: list[dict[str, Any]], answers: SideBySide, report: dict[str, Any]) -> Iterator[str]:
    """What the table of decoders compares, and what it does not."""
    baseline, decoders = answers.baseline, answers.decoders
    if report["model"]["random"]:
        yield "Random weights: the times are valid, the answers mean nothing. Every decoder"
        yield f"writes {report['config']['max_tokens']} tokens. How many tokens a forward commits, from left to right, is"
        yield "assumed; what a trained model commits is not measured here."
        if baseline:
            yield _break_even(decoders, baseline)
    elif baseline and baseline.name == f"mlx-lm, {SAME_WEIGHTS}":
        yield "mlx-lm runs its own Qwen2 with the same weights, one token after the other."
        yield "Its time is that of any Qwen2 of this shape and quantization; its text means"
        yield "nothing. It writes as many tokens as diffucode's answers have useful ones."
    elif baseline:
        yield f"{baseline.name}: its own greedy answers, up to their end."
    if any(row["kind"] == "reference" for row in rows):
        yield "reference: one token a step, the whole canvas in every forward."
    if len({len(decoder.rounds) for decoder in decoders}) > 1:
        yield f"A decoder that had run for {TIME_BUDGET:.0f} s got no further trial."


def _break_even(decoders: Sequence[Decoder], baseline: Decoder) -> str:
    denoisers = [decoder for decoder in decoders if decoder.kind == "diffusion"]
    rate = break_even_rate(denoisers, baseline)
    if rate is not None:
        return f"As fast as mlx-lm at about {rate:.1f} useful tokens per forward (interpolated)."
    rates = [decoder.rate or 0 for decoder in denoisers]
    if max(median(decoder.ratios(baseline)) for decoder in denoisers) < 1:
        return f"Slower than mlx-lm at {max(rates):g} useful tokens per forward, and below."
    return f"As fast as mlx-lm, or faster, at {min(rates):g} useful tokens per forward."


def _line(cells: tuple[str, ...]) -> str:
    name, *numbers = cells
    first = f"{name:{WIDTHS[0]}}" if len(name) <= WIDTHS[0] else f"{name}\n{'':{WIDTHS[0]}}"
    return first + "".join(f"{cell:>{width}}" for cell, width in zip(numbers, WIDTHS[1:], strict=True))


def _milliseconds(time: dict[str, float]) -> str:
    return format_spread(time["seconds"], time["low"], time["high"])


def prediction_lines(prediction: dict[str, Any], ceilings: Ceilings) -> Iterator[str]:
    """The results of `bench predict`, from what `predict_shape` returns."""
    size = format_bytes(prediction["weight_bytes"])
    yield f"PREDICTED, not measured: {SHAPES[prediction['shape']].name}, {prediction['bits']} bits ({size}), on {ceilings.chip}"
    yield from ceilings.lines()
    overhead = f"{format_seconds(ceilings.overhead)} a forward" if ceilings.overhead else "not known: times are lower bounds"
    yield f"{'overhead':10} {overhead}"
    yield ""
    rows = prediction["forwards"]
    emulated = any(row["seconds"] != row["seconds_in_bfloat16"] for row in rows)
    yield f"rows   predicted ms{'   in bfloat16, which this chip emulates' if emulated else ''}"
    for row in rows:
        yield f"{row['rows']:4} {1e3 * row['seconds']:14.1f}" + (f"{1e3 * row['seconds_in_bfloat16']:14.1f}" if emulated else "")
    yield ""
    for evidence, alike in groupby(rows, itemgetter("evidence")):
        counts = [row["rows"] for row in alike]
        yield f"{counts[0]}{f' to {counts[-1]}' if counts[1:] else ''}: {evidence}"
    yield ""
    yield f"predicted: {prediction['autoregressive_tokens_per_second']:.1f} tokens/s one token after the other"
    if block := prediction.get("block_length"):
        least = prediction["break_even_tokens_per_forward"]
        faster = f"faster above {least:.2f} useful tokens per forward" if least else "never faster"
        yield f"predicted: denoising in forwards of {block} or {2 * block} rows is {faster}"
    else:
        per_tile = prediction["break_even_tokens_per_tile"]
        yield f"predicted: denoising is faster above {per_tile:.1f} useful tokens per tile of {prediction['tile']} rows"
    if one := prediction.get("generation"):
        yield f"predicted: {format_seconds(one['seconds'])} for {one['nfe']} forwards of {one['positions']} positions in all"
    if together := prediction.get("together"):
        yield from _together_lines(together)
    if found := published(ceilings):
        yield ""
        yield "the same prediction for Llama-2-7B, and what llama.cpp measured (which its constants are fitted to):"
        yield from (check.line() for check in found)


def _together_lines(together: dict[str, Any]) -> Iterator[str]:
    yield ""
    yield f"PREDICTED, not measured: {together['hosts']} of these together, over {together['about']}"
    yield f"latency and bandwidth: {together['evidence']}"
    for shard, key in (("tensor", "forwards"), ("sequence", "sequence")):
        yield f"--shard {shard}" + ("" if together[key] else ": so many do not divide the model's K/V heads")
        if together[key]:
            yield "rows   predicted ms   of which exchanges   times as fast as one"
        for row in together[key]:
            yield f"{row['rows']:4} {1e3 * row['seconds']:14.1f} {1e3 * row['exchanges']:20.1f} {row['times_faster']:22.2f}"


def tuning_lines(tuning: Tuning, path: Path) -> Iterator[str]:
    """The results of `bench tune`.

    Args:
        path: where the profile was stored.
    """
    own, prompts = own_point(tuning.points), tuning.orders.prompts
    yield f"{PRESET}; forwards are counted and timed; same: texts of one token a step, of {prompts}"
    yield f"{'rows':>4}  {'rule':18}  {'forwards':>8}  {'tokens':>6}  {'per useful token':>16}  {'same':>4}"
    for point in tuning.points:
        mark = " chosen" if point is tuning.chosen else " preset's" if point is own else ""
        numbers = f"{point.nfe:8}  {point.useful_tokens:6}  {format_seconds(point.per_token):>16}  {point.same:4}"
        yield f"{point.rows:4}  {point.rule:18}  {numbers}{mark}"
    share = f"{100 * tuning.chosen.per_token / own.per_token:.0f} % of the preset's time, estimated"
    yield f"{'':6}{LOOSER} is never stored: a few prompts do not show what it loses"
    yield f"{'':6}{tuning.chosen.rule} on {tuning.chosen.window}: {'the preset itself' if tuning.chosen is own else share}"
    yield ""
    yield from _orders(tuning.orders)
    yield f"stored in {path}"
    yield f"generate, chat and eval use it for {tuning.profile.model} here, unless you name others"


def _orders(orders: Orders) -> Iterator[str]:
    left, right = f"{orders.left_to_right:.4f} from left to right", f"{orders.confidence:.4f} by confidence"
    yield f"order  {orders.same} of {orders.prompts} answers are the same from left to right and by confidence"
    if differ := orders.prompts - orders.same:
        yield f"{'':7}of the {differ} others, the model finds {orders.likelier} more probable from left to right"
    yield f"{'':7}mean log-probability: {left}, {right}"
    yield f"{'':7}which order solves more: diffucode eval TASKS --compare-orders"
