"""Families over whole numbers."""

import math

from .single import SMALL, Single

TO_TWENTY = tuple(range(3, 21))


def fibonacci(n: int) -> int:
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a


def is_prime(n: int) -> bool:
    return n > 1 and all(n % i for i in range(2, n))


def divisors(n: int) -> list[int]:
    return [i for i in range(1, n + 1) if n % i == 0]


def collatz(n: int) -> int:
    return 0 if n == 1 else 1 + collatz(3 * n + 1 if n % 2 else n // 2)


PRIME = "if X < 2:\n    return False\nfor i in range(2, X):\n    if X % i == 0:\n        return False\nreturn True"

FAMILIES = (
    Single(
        name="odd",
        says=("X is odd", "X is an odd number"),
        code=("return X % 2 == 1", "return X % 2 != 0"),
        means=lambda n: n % 2 == 1,
        takes=("int",),
        gives="bool",
        classic=1,
    ),
    Single(
        name="even",
        says=("X is even", "X is an even number"),
        code=("return X % 2 == 0",),
        means=lambda n: n % 2 == 0,
        takes=("int",),
        gives="bool",
        classic=1,
    ),
    Single(
        name="prime",
        says=("X is a prime number", "X is prime"),
        code=(PRIME,),
        means=is_prime,
        takes=("natural",),
        gives="bool",
        classic=2,
    ),
    Single(
        name="divisible",
        says=("X is divisible by N", "X is a multiple of N"),
        code=("return X % N == 0",),
        means=lambda n, d: n % d == 0,
        takes=("int",),
        gives="bool",
        blanks=TO_TWENTY,
        classic=2,
    ),
    Single(
        name="between",
        says=("X is between 0 and N inclusive", "X is at least 0 and at most N"),
        code=("return 0 <= X <= N", "return X >= 0 and X <= N"),
        means=lambda n, top: n in range(top + 1),
        takes=("int",),
        gives="bool",
        blanks=tuple(range(2, 31)),
    ),
    Single(
        name="perfect square",
        says=("X is a perfect square", "X is the square of an integer"),
        code=("return int(X ** 0.5) ** 2 == X", "return any(i * i == X for i in range(X + 1))"),
        means=lambda n: math.isqrt(n) ** 2 == n,
        takes=("natural",),
        gives="bool",
    ),
    Single(
        name="leap year",
        says=("X is a leap year",),
        code=(
            "return X % 4 == 0 and X % 100 != 0 or X % 400 == 0",
            "if X % 100 == 0:\n    return X % 400 == 0\nreturn X % 4 == 0",
        ),
        means=lambda y: y % 400 == 0 if y % 100 == 0 else y % 4 == 0,
        takes=("year",),
        gives="bool",
    ),
    Single(
        name="square",
        says=("the square of X",),
        code=("return X * X", "return X ** 2"),
        means=lambda n: n**2,
        takes=("int",),
        gives="int",
        classic=1,
    ),
    Single(
        name="cube",
        says=("the cube of X",),
        code=("return X ** 3", "return X * X * X"),
        means=lambda n: n**3,
        takes=("int",),
        gives="int",
        classic=1,
    ),
    Single(
        name="absolute value",
        says=("the absolute value of X",),
        code=("return abs(X)", "return -X if X < 0 else X"),
        means=abs,
        takes=("int",),
        gives="int",
        classic=1,
    ),
    Single(
        name="integers summed",
        says=("the sum of the integers from 1 to X", "the total of the integers from 1 to X"),
        code=(
            "return X * (X + 1) // 2",
            "return sum(range(1, X + 1))",
            "total = 0\nfor i in range(1, X + 1):\n    total += i\nreturn total",
        ),
        means=lambda n: sum(range(n + 1)),
        takes=("natural",),
        gives="int",
        classic=1,
    ),
    Single(
        name="factorial",
        says=("the factorial of X",),
        code=("result = 1\nfor i in range(2, X + 1):\n    result *= i\nreturn result",),
        means=math.factorial,
        takes=("count",),
        gives="int",
        classic=1,
    ),
    Single(
        name="Fibonacci number",
        says=("the X-th Fibonacci number",),
        code=("a, b = 0, 1\nfor _ in range(X):\n    a, b = b, a + b\nreturn a",),
        means=fibonacci,
        takes=("count",),
        gives="int",
        classic=1,
    ),
    Single(
        name="divisors",
        says=("the list of divisors of X", "a list of the divisors of X"),
        code=("return [i for i in range(1, X + 1) if X % i == 0]",),
        means=divisors,
        takes=("positive",),
        gives="ints",
        classic=1,
    ),
    Single(
        name="smallest divisor",
        says=("the smallest divisor of X greater than 1", "the smallest divisor of X above 1"),
        code=("d = 2\nwhile X % d != 0:\n    d += 1\nreturn d",),
        means=lambda n: divisors(n)[1],
        takes=("at least two",),
        gives="int",
    ),
    Single(
        name="integers to",
        says=("the list of integers from 0 to X inclusive", "a list of the integers from 0 to X inclusive"),
        code=("return list(range(X + 1))", "return [i for i in range(X + 1)]"),
        means=lambda n: [*range(n), n],
        takes=("count",),
        gives="ints",
        classic=1,
    ),
    Single(
        name="countdown",
        says=("the list of integers from X down to 1", "a list that counts down from X to 1"),
        code=("return list(range(X, 0, -1))", "result = []\nwhile X > 0:\n    result.append(X)\n    X -= 1\nreturn result"),
        means=lambda n: list(range(1, n + 1))[::-1],
        takes=("count",),
        gives="ints",
    ),
    Single(
        name="multiples",
        says=("the list of the first X multiples of N, from N on", "a list of the first X positive multiples of N"),
        code=(
            "return [i * N for i in range(1, X + 1)]",
            "result = []\nfor i in range(1, X + 1):\n    result.append(i * N)\nreturn result",
        ),
        means=lambda n, d: list(range(d, d * n + 1, d)),
        takes=("count",),
        gives="ints",
        blanks=TO_TWENTY,
    ),
    Single(
        name="powers",
        says=("the list of the first X powers of N, from 1 on",),
        code=("return [N ** i for i in range(X)]", "result = []\nfor i in range(X):\n    result.append(N ** i)\nreturn result"),
        means=lambda n, base: [base**i for i in range(n)],
        takes=("count",),
        gives="ints",
        blanks=SMALL,
    ),
    Single(
        name="clamp",
        says=("X clamped to the range from 0 to N", "X limited to the range from 0 to N"),
        code=("return max(0, min(X, N))", "if X < 0:\n    return 0\nif X > N:\n    return N\nreturn X"),
        means=lambda n, top: sorted([0, n, top])[1],
        takes=("int",),
        gives="int",
        blanks=tuple(range(5, 31)),
    ),
    Single(
        name="Fahrenheit",
        says=("X degrees Celsius in Fahrenheit", "the temperature X converted from Celsius to Fahrenheit"),
        code=("return X * 9 / 5 + 32",),
        means=lambda c: c * 9 / 5 + 32,
        takes=("celsius",),
        gives="number",
    ),
    Single(
        name="collatz steps",
        says=("the number of Collatz steps from X to 1",),
        code=("count = 0\nwhile X != 1:\n    X = X // 2 if X % 2 == 0 else 3 * X + 1\n    count += 1\nreturn count",),
        means=collatz,
        takes=("positive",),
        gives="int",
    ),
    Single(
        name="halvings",
        says=("the number of times X can be halved, rounding down, until it is 0",),
        code=("count = 0\nwhile X > 0:\n    X //= 2\n    count += 1\nreturn count", "return X.bit_length()"),
        means=lambda n: len(bin(n)) - 2 if n else 0,
        takes=("natural",),
        gives="int",
    ),
)
