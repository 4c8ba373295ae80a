"""Tests for EvalPlus rows, which have inputs but no tests: the answer must do what the canonical solution does.

Two results agree when they are equal, or when their numbers differ by at most `atol` (plus 1e-7 relative). As in EvalPlus
(arXiv 2305.01210), floats get an `atol` of 1e-6 where the row says 0. One task, the root of a polynomial, has several
right answers, so the answer is put into the polynomial.

Not covered: EvalPlus's time limit for each input. The program as a whole has a time limit.
"""

import json
from collections.abc import Sequence
from typing import Any

# Runs in the answer's process. It defines one name only, so that it hides none of the answer's.
PROGRAM = '''
def _diffucode_compare(candidate, name, solution, inputs, atol):
    import copy
    import json

    def agree(given, wanted, atol):
        """Whether `given` is `wanted`, numbers within `atol`."""
        if isinstance(wanted, (list, tuple)):
            same_length = isinstance(given, (list, tuple)) and len(given) == len(wanted)
            return given == wanted or (atol > 0 and same_length and all(agree(a, b, atol) for a, b in zip(given, wanted)))
        if isinstance(wanted, dict):
            same_keys = isinstance(given, dict) and given.keys() == wanted.keys()
            return given == wanted or (atol > 0 and same_keys and all(agree(given[key], wanted[key], atol) for key in wanted))
        if given == wanted or (wanted != wanted and given != given):
            return True
        numbers = all(isinstance(value, (int, float, complex)) for value in (given, wanted))
        return numbers and atol > 0 and abs(given - wanted) <= atol + 1e-7 * abs(wanted)

    def holds_floats(value):
        if isinstance(value, (list, tuple)):
            return bool(value) and all(isinstance(item, float) for item in value)
        return isinstance(value, float)

    reference = {"__name__": "reference"}
    exec(solution, reference)
    for arguments in json.loads(inputs):
        given = candidate(*copy.deepcopy(arguments))
        if name == "find_zero" and "poly" in reference:
            assert abs(reference["poly"](*arguments, given)) <= max(atol, 1e-6)
            continue
        wanted = reference[name](*copy.deepcopy(arguments))
        assert agree(given, wanted, atol or (1e-6 if holds_floats(wanted) else 0))
'''


def differential_tests(name: str, solution: str, inputs: Sequence[Sequence[Any]], atol: float) -> str:
    """Python that raises `AssertionError` unless the function `name` gives the same results as in `solution`.

    Args:
        inputs: the arguments of each call.
        atol: the largest absolute difference of two numbers that count as equal.
    """
    call = f"_diffucode_compare({name}, {name!r}, {solution!r}, {json.dumps(list(inputs))!r}, {float(atol)!r})"
    return f"{PROGRAM}\n\n{call}\n"
