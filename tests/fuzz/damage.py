"""Damage to files: bytes, lines, or values of the JSON in them."""

import json
import random
from typing import Any

WORDS = [
    *(
        b"\x00",
        b"\xff\xfe",
        b"\xed\xa0\x80",
        b"\xef\xbb\xbf",
        b"\r\n",
        b"\n",
        b"\\ud800",
        b"\xe2\x80\xae",
        b"\x1b[31m",
        b'"',
        b"{",
        b"]",
    ),
    *(
        b"[" * 5000,
        b'{"a":' * 3000,
        b"NaN",
        b"-Infinity",
        b"1e999",
        b"9" * 5000,
        b"null",
        b"-1",
        b"a" * 5000,
        b"<FILL>",
        b"<FILL:9>",
    ),
    *(
        b"{{",
        b"}}",
        b"{% for i in range(10**9) %}x{% endfor %}",
        b"{{ 'x' * 10**10 }}",
        b"<|im_start|>",
        b"<|mask|>",
        b"[[a]]",
        b"= 1",
    ),
]
VALUES = [
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        2**31,
        2**63,
        10**30,
        1.5,
        float("nan"),
        float("inf"),
        "",
        "x",
        "\ud800",
        "n" * 5000,
        "\x1b[31m\x00",
    ),
    *(
        [],
        {},
        [[]],
        [None],
        [1],
        ["x"],
        {"a": 1},
        [0] * 1000,
        {"from": "gpt"},
        "{{data}}",
        "../../etc/passwd",
        "<|mask|>",
        -(10**12),
    ),
]


def damaged(rng: random.Random, wholes: list[bytes], *, header: bool = False) -> bytes:
    """One of some files, damaged once or a few times.

    Args:
        header: whether it is a safetensors file; then its header is damaged, or the length of it.
    """
    data = rng.choice(wholes)
    if header:
        size = 8 + int.from_bytes(data[:8], "little")
        head, rest = data[:size], data[size:]
        if rng.random() < 0.5:
            head = (text := _json_damaged(rng, head[8:])) and len(text).to_bytes(8, "little") + text
        else:
            head = _bytes_damaged(rng, head)
        return head + rest[: rng.choice([len(rest), rng.randrange(len(rest) + 1)])]
    for _ in range(rng.choice([1, 1, 1, 2, 5])):
        data = _bytes_damaged(rng, data) if rng.random() < 0.4 else _json_damaged(rng, data)
    return data


def _bytes_damaged(rng: random.Random, data: bytes) -> bytes:
    a, b = sorted(rng.randrange(len(data) + 1) for _ in range(2))
    b = min(b, a + rng.choice([0, 1, 4, 1000]))
    match rng.randrange(5):
        case 0:
            return data[:a] + bytes(rng.randrange(256) for _ in range(b - a)) + data[b:]
        case 1:
            return data[:a] + data[b:]
        case 2:
            return data[:b] + data[a:]
        case 3:
            return data[:a] + rng.choice(WORDS) + data[b:]
        case _:
            return data[:a]


def _json_damaged(rng: random.Random, data: bytes) -> bytes:
    """JSON, or JSON lines, with one value changed; other bytes are damaged as such."""
    lines = data.split(b"\n")
    number = rng.randrange(len(lines))
    whole = len(lines) > 1 and data[:1] in (b"{", b"[") and not lines[0].endswith((b"}", b"]"))
    try:
        row = json.loads(data if whole else lines[number])
    except (ValueError, RecursionError):
        return _bytes_damaged(rng, data)
    text = json.dumps(_changed(rng, row)).encode()
    return text if whole else b"\n".join([*lines[:number], text, *lines[number + 1 :]])


def _changed(rng: random.Random, value: Any) -> Any:
    if isinstance(value, dict | list) and value and rng.random() < 0.8:
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key, value = rng.choice(keys), value.copy()
        if rng.random() < 0.15:
            del value[key]
        elif rng.random() < 0.1 and isinstance(value, dict):
            value[str(rng.choice(VALUES))] = value[key]
        else:
            value[key] = _changed(rng, value[key])
        return value
    return rng.choice(VALUES)
