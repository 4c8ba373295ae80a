"""EvalPlus's rows that carry inputs and no tests: the answer against the canonical solution.

Two results agree when they are equal, or when their numbers are within `atol` (plus 1e-7 relative);
floats get 1e-6 where the row says 0, as in EvalPlus (arXiv 2305.01210). One task, the root of a
polynomial, has more than one right answer and is checked by its own equation.

Not covered: EvalPlus's time limit for each input; the whole program has one.
"""

import json
from collections.abc import Sequence
from typing import Any

# Python that runs beside the answer, behind limits; the names in capitals are replaced.
PROGRAM = '''
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


def compare(candidate):
    names = {"__name__": "reference"}
    exec(SOLUTION, names)
    for arguments in json.loads(INPUTS):
        given = candidate(*copy.deepcopy(arguments))
        if NAME == "find_zero" and "poly" in names:
            assert abs(names["poly"](*arguments, given)) <= max(ATOL, 1e-6)
            continue
        wanted = names[NAME](*copy.deepcopy(arguments))
        assert agree(given, wanted, ATOL or (1e-6 if holds_floats(wanted) else 0))


compare(ENTRY)
'''


def differential_tests(name: str, solution: str, inputs: Sequence[Sequence[Any]], atol: float) -> str:
    """Python that raises `AssertionError` unless the function `name` does on `inputs` what it does in `solution`."""
    values = {
        "SOLUTION": repr(solution),
        "INPUTS": repr(json.dumps(list(inputs))),
        "NAME": repr(name),
        "ATOL": repr(float(atol)),
        "ENTRY": name,
    }
    # The solution and the inputs last: their text must not be searched for names.
    program = PROGRAM
    for key in ("NAME", "ATOL", "ENTRY"):
        program = program.replace(key, values[key])
    head, _, rest = program.partition("SOLUTION")
    middle, _, tail = rest.partition("INPUTS")
    return "".join((head, values["SOLUTION"], middle, values["INPUTS"], tail))
