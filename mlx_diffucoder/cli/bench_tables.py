"""What `diffucode bench` says: its tables, and what may be compared in them."""

from collections.abc import Iterator
from statistics import median
from typing import TYPE_CHECKING, Any

from ..formatting import format_bytes, format_seconds, format_spread

if TYPE_CHECKING:
    from ..bench.decoders import SideBySide, Speed
    from ..bench.speed import Split

# Heads of three lines and the widths below them: 80 columns in all.
HEADS = (
    ("", "", "decoder"),
    ("useful", "tokens/s", "(least-most)"),
    ("times", "mlx-lm's", "(least-most)"),
    ("NFE", "per", "answer"),
    ("positions", "per", "token"),
    ("tokens", "per", "forward"),
)
WIDTHS = (20, 17, 17, 7, 10, 9)


def lines(report: dict[str, Any], split: "Split", answers: "SideBySide") -> Iterator[str]:
    """All that was measured, for people."""
    model, rows = report["model"], report["decoders"]
    yield f"{'model':10} {model['name']}: {format_bytes(model['bytes'])}, {model['bits_per_weight']:.2f} bits a weight"
    yield f"{'':10} trials: {report['trials']}, in turns; the median (least to most)"
    yield f"{'':10} share: of the roofline, what the ceilings would allow"
    yield from _forwards(report["forwards"])
    yield from _split(split)
    yield from details(rows)
    yield ""
    yield from table(rows)
    yield ""
    yield from notes(rows, answers, report)


def _forwards(rows: list[dict[str, Any]]) -> Iterator[str]:
    yield "\nforward: positions, time, share"
    for row in rows:
        yield f"{row['positions']:9}  {_milliseconds(row['time'])}  {100 * row['roofline_share']:.0f} %"
    if max(row["roofline_share"] for row in rows) > 1:
        yield f"{'':9}  above 100 %: weights in the processor's cache, or ceilings that are too low"


def _split(split: "Split") -> Iterator[str]:
    from ..bench.speed import LABELS

    yield f"\nstep: {split.step}, the mean of {split.steps}"
    for part, seconds in split.parts.items():
        yield f"{LABELS[part]:>9}  {format_seconds(seconds):>7}  {100 * seconds / sum(split.parts.values()):.1f} %"
    sums = split.sum_over_step
    made = f"{100 * sums.median:.0f} % ({100 * sums.low:.0f} to {100 * sums.high:.0f})"
    yield f"{'':9}  the parts, each waited for, make {made} of a step"
    yield f"first forward, with a prompt of {split.prompt} tokens: {split.encoding}"


def details(rows: list[dict[str, Any]]) -> Iterator[str]:
    """Each answer of the decoders that denoise as they were asked to."""
    for row in (row for row in rows if row["kind"] == "diffusion"):
        for number, one in enumerate(row["generations"], start=1):
            taken, first = one["time"], one["first_settled"]
            tokens, seconds = one["useful_tokens"], taken["seconds"]
            yield f"\n{row['name']}, answer {number}: {_milliseconds(taken)}"
            yield f"{one['nfe']:9} forwards (NFE) of {one['positions']} positions, prompt of {one['prompt_tokens']} tokens"
            yield f"{tokens:9} useful tokens, {tokens / seconds:.1f} useful tokens/s"
            yield f"{tokens / one['nfe'] if one['nfe'] else 0:9.2f} useful tokens per forward"
            if tokens:
                yield f"{one['positions'] / tokens:9.1f} positions per useful token"
            yield f"{format_seconds(first['seconds']):>9} to the first settled token"
            yield f"{format_bytes(one['peak_memory_bytes']):>9} of memory at most"
            yield f"{100 * one['roofline_share']:9.0f} % of the roofline"


def table(rows: list[dict[str, Any]]) -> Iterator[str]:
    """A line for each decoder."""
    from ..bench.decoders import BASELINE

    answers = len(rows[0]["generations"])
    each = "1 answer" if answers == 1 else f"{answers} answers"
    yield f"side by side, {each} each, in turns; medians; tokens: the useful ones"
    for line in zip(*HEADS, strict=True):
        yield _line(line)
    for row in rows:
        per_token = row["positions_per_useful_token"]
        yield _line(
            (
                row["name"],
                _spread(row["useful_tokens_per_second"]),
                "" if row["ratio"] is None else "1" if row["kind"] == BASELINE else _spread(row["ratio"]),
                f"{row['nfe'] / answers:.1f}",
                "" if per_token is None else f"{per_token:.1f}",
                f"{row['tokens_per_forward']:.2f}",
            )
        )


def notes(rows: list[dict[str, Any]], answers: "SideBySide", report: dict[str, Any]) -> Iterator[str]:
    """What the table compares, and what it does not."""
    from ..bench.baselines import SAME
    from ..bench.decoders import ENOUGH

    baseline, speeds = answers.baseline, answers.speeds
    if report["model"]["random"]:
        yield "Random weights: the times are good, the answers are none. Every decoder writes"
        yield f"{report['config']['max_tokens']} tokens and none ends before; how many tokens a forward commits is assumed,"
        yield "from left to right. What a trained model commits is not measured here."
        if baseline:
            yield _break_even(speeds, baseline)
    elif baseline and baseline.decoder.name == f"mlx-lm, {SAME}":
        yield "mlx-lm runs its own Qwen2 around the same weights, one token after the other:"
        yield "its time is that of any Qwen2 of this shape and quantization, its text means"
        yield "nothing. It writes as many tokens as diffucode's answers had useful ones."
    elif baseline:
        yield f"{baseline.decoder.name}: its own answers, greedy, up to its own end."
    if any(row["kind"] == "reference" for row in rows):
        yield "reference: one token a step, the whole canvas in every forward."
    if any(len(speed.rounds) < max(len(speed.rounds) for speed in speeds) for speed in speeds):
        yield f"A decoder that had run for {ENOUGH:.0f} s had no further trial."


def _break_even(speeds: "list[Speed]", baseline: "Speed") -> str:
    from ..bench.decoders import break_even_rate

    denoisers = [speed for speed in speeds if speed.decoder.kind == "diffusion"]
    rate = break_even_rate(denoisers, baseline)
    if rate is not None:
        return f"As fast as mlx-lm at about {rate:.1f} useful tokens per forward (interpolated)."
    rates = [speed.decoder.rate or 0 for speed in denoisers]
    if max(median(speed.ratios(baseline)) for speed in denoisers) < 1:
        return f"Slower than mlx-lm at {max(rates):g} useful tokens per forward, and below."
    return f"As fast as mlx-lm, or faster, at {min(rates):g} useful tokens per forward."


def _line(cells: tuple[str, ...]) -> str:
    name, *numbers = cells
    own = f"{name:{WIDTHS[0]}}" if len(name) <= WIDTHS[0] else f"{name}\n{'':{WIDTHS[0]}}"
    return own + "".join(f"{cell:>{width}}" for cell, width in zip(numbers, WIDTHS[1:], strict=True))


def _spread(one: dict[str, float]) -> str:
    digits = 0 if one["median"] >= 100 else 1 if one["median"] >= 10 else 2
    return f"{one['median']:.{digits}f} ({one['low']:.{digits}f}-{one['high']:.{digits}f})"


def _milliseconds(time: dict[str, float]) -> str:
    return format_spread(time["seconds"], time["low"], time["high"])
