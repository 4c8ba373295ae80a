"""`diffucode rules`: the commit rules and windows, with what each does and its parameters."""

import json
import textwrap
from collections.abc import Iterator
from typing import Any

import typer

from ..choices import RULES, WINDOWS, Choices, Parameter
from ..config import PRESETS
from .command import Command, examples
from .options import Json, Quiet
from .terminal import put

app = typer.Typer()


@app.command(cls=Command, epilog=examples("diffucode rules", "diffucode rules --json | jq .rules.threshold"))
def rules(as_json: Json = False, quiet: Quiet = False) -> int:
    """List the commit rules, the windows and the presets.

    A rule decides how many tokens to commit in a step, a window decides which positions to compute. Write a parameter after
    the name: --rule threshold:tau=0.8, --window sliding:width=32,suffix=0. A preset names a rule and a window.
    """
    if as_json:
        put(json.dumps({"rules": _described(RULES), "windows": _described(WINDOWS), "presets": dict(PRESETS)}))
        return 0
    lines = ["Commit rules (--rule):", "", *_lines(RULES), "", "Windows (--window):", "", *_lines(WINDOWS), ""]
    lines += ["Presets (--preset):", ""]
    for name, own in PRESETS.items():
        lines += [_row(name, f"--rule {own['rule']}"), _row("", f"--window {own['window']}")]
    put("\n".join(lines))
    return 0


def _described(choices: Choices) -> dict[str, Any]:
    return {
        name: {"summary": one.summary, "parameters": {key: own._asdict() for key, own in one.parameters.items()}}
        for name, one in choices.items()
    }


def _lines(choices: Choices) -> Iterator[str]:
    """Each choice, and below it each parameter with its default."""
    for name, choice in choices.items():
        yield _row(name, choice.summary)
        for key, parameter in choice.parameters.items():
            yield _row(f"  {key}={parameter.default:g}", f"{parameter.meaning} {_bounds(parameter)}")


def _row(head: str, text: str) -> str:
    """Two columns, no wider than 80 characters."""
    return textwrap.fill(text, 80, initial_indent=f"  {head:17} ", subsequent_indent=20 * " ", break_on_hyphens=False)


def _bounds(parameter: Parameter) -> str:
    kind = "A whole number" if isinstance(parameter.default, int) else "A number"
    ends = f"of at least {parameter.low:g}" if parameter.high > 10_000 else f"from {parameter.low:g} to {parameter.high:g}"
    return f"{kind} {ends}."
