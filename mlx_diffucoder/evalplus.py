"""EvalPlus's rows that carry inputs and no tests: the answer against the canonical solution.

Two results agree when they are equal, or when their numbers are within `atol` (plus 1e-7 relative);
floats get 1e-6 where the row says 0, as in EvalPlus (arXiv 2305.01210). One task, the root of a
polynomial, has more than one right answer and is checked by its own equation.

Not covered: EvalPlus's time limit for each input; the whole program has one.
"""

import json
from collections.abc import Sequence
from typing import Any

# Python that runs beside the answer, behind limits. One name only, lest it takes the place of one of the answer's.
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
    """Python that raises `AssertionError` unless the function `name` does on `inputs` what it does in `solution`."""
    call = f"_diffucode_compare({name}, {name!r}, {solution!r}, {json.dumps(list(inputs))!r}, {float(atol)!r})"
    return f"{PROGRAM}\n\n{call}\n"
