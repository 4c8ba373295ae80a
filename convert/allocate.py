"""Choose one option for each layer, with the lowest total cost within a budget: the multiple-choice knapsack problem.

Costs are assumed to add up. For quantized layers that holds only approximately: see `calibrate`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from math import gcd

import numpy as np
from numpy.typing import NDArray

MOST_STATES = 2**17
"""Number of distinct sizes; at 7B each covers at most 30 kB."""


@dataclass(frozen=True)
class Choice:
    """An option for a layer: its bytes and its cost."""

    size: int
    cost: float


def allocate(layers: Sequence[Sequence[Choice]], budget: int) -> list[int]:
    """The index of each layer's choice, with the lowest total cost whose total size is within the budget.

    Dynamic programming over sizes, layer by layer. With more sizes than `MOST_STATES`, each choice's
    size is rounded up, so the budget always holds and a little of it may stay unused.

    Raises:
        ValueError: even the smallest choices do not fit.
    """
    smallest = [min(choice.size for choice in choices) for choices in layers]
    spare = budget - sum(smallest)
    if spare < 0:
        raise ValueError(f"the smallest choices take {sum(smallest)} bytes, more than the budget of {budget}")
    above = [np.array([choice.size - least for choice in choices]) for choices, least in zip(layers, smallest, strict=True)]
    unit = max(1, reduce(gcd, (int(size) for sizes in above for size in sizes), 0), -(-spare // MOST_STATES))
    units = [(-(-sizes // unit)).tolist() for sizes in above]
    states = min(spare // unit, sum(map(max, units))) + 1
    best: NDArray[np.float64] = np.zeros(states)  # [size]: the lowest cost of the layers so far
    taken: list[NDArray[np.int16]] = []
    for steps, choices in zip(units, layers, strict=True):
        made = np.full((len(choices), states), np.inf)
        for number, (step, choice) in enumerate(zip(steps, choices, strict=True)):
            if step < states:
                made[number, step:] = best[: states - step] + choice.cost
        taken.append(made.argmin(axis=0).astype(np.int16))
        best = made.min(axis=0)
    chosen, state = list[int](), int(best.argmin())
    for numbers, steps in zip(reversed(taken), reversed(units), strict=True):
        chosen.append(int(numbers[state]))
        state -= steps[chosen[-1]]
    return chosen[::-1]


def swaps(layers: Sequence[Sequence[Choice]], chosen: Sequence[int], budget: int, count: int) -> list[list[int]]:
    """At most `count` allocations that give one layer more bytes and at most one other layer fewer, cheapest first.

    All are within the budget.
    """
    changes = [(0, 0.0, -1, 0)]  # of size and cost, with their layer and choice; the first is the empty change
    for place, (choices, now) in enumerate(zip(layers, chosen, strict=True)):
        old = choices[now]
        others = ((number, new) for number, new in enumerate(choices) if number != now)
        changes += [(new.size - old.size, new.cost - old.cost, place, number) for number, new in others]
    sizes, costs, places, numbers = (np.array(column) for column in zip(*changes, strict=True))
    spare = budget - sum(choices[number].size for choices, number in zip(layers, chosen, strict=True))
    up, down = np.flatnonzero(sizes > 0), np.flatnonzero(sizes <= 0)
    fits = (sizes[up][:, None] + sizes[down] <= spare) & (places[up][:, None] != places[down])
    cost = np.where(fits, costs[up][:, None] + costs[down], np.inf).ravel()
    found = []
    for index in np.argsort(cost, kind="stable")[:count]:
        if cost[index] < np.inf:
            made = list(chosen)
            for change in (up[index // len(down)], down[index % len(down)]):
                if places[change] >= 0:
                    made[places[change]] = int(numbers[change])
            found.append(made)
    return found
