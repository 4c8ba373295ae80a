"""Families over several lists at once, and over the order of one."""

from itertools import accumulate, chain, pairwise

from .single import SMALL, Single

FAMILIES = (
    Single(
        name="rotated left",
        says=("X rotated left by N positions", "X rotated to the left by N"),
        code=("return X[N:] + X[:N]",),
        means=lambda v, n: [*v[n:], *v[:n]],
        takes=("long ints",),
        gives="ints",
        blanks=(1, 2, 3, 4),
    ),
    Single(
        name="rotated right",
        says=("X rotated right by N positions", "X rotated to the right by N"),
        code=("return X[-N:] + X[:-N]",),
        means=lambda v, n: [*v[-n:], *v[:-n]],
        takes=("long ints",),
        gives="ints",
        blanks=(1, 2, 3, 4),
    ),
    Single(
        name="chunks",
        says=("X split into chunks of N elements", "the list of consecutive chunks of N elements of X"),
        code=(
            "return [X[i:i + N] for i in range(0, len(X), N)]",
            "result = []\nfor i in range(0, len(X), N):\n    result.append(X[i:i + N])\nreturn result",
        ),
        means=lambda v, n: [v[: i + n][i:] for i in range(0, len(v), n)],
        takes=("ints",),
        gives="rows",
        blanks=SMALL,
    ),
    Single(
        name="running sums",
        says=("the list of running sums of X", "the list of running totals of X"),
        code=(
            "total = 0\nresult = []\nfor x in X:\n    total += x\n    result.append(total)\nreturn result",
            "return [sum(X[:i + 1]) for i in range(len(X))]",
        ),
        means=lambda v: list(accumulate(v)),
        takes=("ints",),
        gives="ints",
    ),
    Single(
        name="differences",
        says=("the list of differences between each element of X and the one before it",),
        code=("return [b - a for a, b in zip(X, X[1:])]", "return [X[i] - X[i - 1] for i in range(1, len(X))]"),
        means=lambda v: [b - a for a, b in pairwise(v)],
        takes=("ints",),
        gives="ints",
    ),
    Single(
        name="flattened",
        says=("X flattened into one list", "one list of the elements of all the lists in X"),
        code=("return [x for row in X for x in row]", "result = []\nfor row in X:\n    result.extend(row)\nreturn result"),
        means=lambda v: list(chain.from_iterable(v)),
        takes=("rows",),
        gives="ints",
    ),
    Single(
        name="row sums",
        says=("the list of the sums of the lists in X",),
        code=("return [sum(row) for row in X]", "result = []\nfor row in X:\n    result.append(sum(row))\nreturn result"),
        means=lambda v: list(map(sum, v)),
        takes=("rows",),
        gives="ints",
    ),
    Single(
        name="row lengths",
        says=("the list of the lengths of the lists in X",),
        code=("return [len(row) for row in X]", "result = []\nfor row in X:\n    result.append(len(row))\nreturn result"),
        means=lambda v: list(map(len, v)),
        takes=("rows",),
        gives="ints",
    ),
    Single(
        name="interleaved",
        says=("a list that takes elements from X and Y in turn, up to the end of the shorter",),
        code=(
            "return [x for pair in zip(X, Y) for x in pair]",
            "result = []\nfor a, b in zip(X, Y):\n    result += [a, b]\nreturn result",
        ),
        means=lambda v, w: [(v, w)[i % 2][i // 2] for i in range(2 * min(len(v), len(w)))],
        takes=("ints", "ints"),
        gives="ints",
    ),
    Single(
        name="concatenated",
        says=("X followed by the elements of Y", "the elements of X followed by those of Y"),
        code=("return X + Y",),
        means=lambda v, w: [*v, *w],
        takes=("ints", "ints"),
        gives="ints",
    ),
    Single(
        name="common elements",
        says=("the list of the elements of X that are also in Y",),
        code=(
            "return [x for x in X if x in Y]",
            "result = []\nfor x in X:\n    if x in Y:\n        result.append(x)\nreturn result",
        ),
        means=lambda v, w: list(filter(w.__contains__, v)),
        takes=("ints", "ints"),
        gives="ints",
    ),
    Single(
        name="missing elements",
        says=("the list of the elements of X that are not in Y",),
        code=(
            "return [x for x in X if x not in Y]",
            "result = []\nfor x in X:\n    if x not in Y:\n        result.append(x)\nreturn result",
        ),
        means=lambda v, w: [x for x in v if w.count(x) == 0],
        takes=("ints", "ints"),
        gives="ints",
    ),
    Single(
        name="sorted by length",
        says=("X sorted by length, words of equal length in their first order",),
        code=("return sorted(X, key=len)",),
        means=lambda v: [w for n in range(30) for w in v if len(w) == n],
        takes=("words",),
        gives="words",
    ),
    Single(
        name="pairs with sum",
        says=("the number of pairs of positions in X whose elements add up to N",),
        code=("count = 0\nfor i in range(len(X)):\n    for j in range(i):\n        count += X[i] + X[j] == N\nreturn count",),
        means=lambda v, n: sum(a + b == n for i, a in enumerate(v) for b in v[i + 1 :]),
        takes=("ints",),
        gives="int",
        blanks=tuple(range(0, 21)),
    ),
)
