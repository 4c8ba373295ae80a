"""Run the command and look at what it wrote: in this process, or as a user starts it, in a process of its own."""

import io
import os
import subprocess
import sys
import time
from pathlib import Path
from unittest import mock

COMMAND = Path(sys.executable).with_name("diffucode")
CLEAN = {"HF_HUB_OFFLINE", "HF_ENDPOINT", "HF_HOME", "VISUAL", "EDITOR"}
# No defaults of whoever runs the tests, no widths that they have tuned, and no models that they have converted.
NOWHERE = f"{os.devnull}/nowhere"  # nobody can make it
NOTHING_SET = {"DIFFUCODE_CONFIG": os.devnull, "DIFFUCODE_PROFILES": NOWHERE, "DIFFUCODE_CONVERSIONS": NOWHERE}
# Variables that Python and huggingface_hub read once, when they start.
READ_ONCE = ("HF_", "PYTHON")
# Those of huggingface_hub that can be set in a process that runs: what each sets in its `constants`.
SETTABLE = {
    "HF_ENDPOINT": lambda url: {"ENDPOINT": url, "HUGGINGFACE_CO_URL_TEMPLATE": url + "/{repo_id}/resolve/{revision}/{filename}"},
    "HF_HOME": lambda home: {"HF_HOME": home, "HF_HUB_CACHE": f"{home}/hub", "HF_TOKEN_PATH": f"{home}/token"},
    "HF_HUB_OFFLINE": lambda text: {"HF_HUB_OFFLINE": text == "1"},
    "HF_HUB_DISABLE_XET": lambda text: {"HF_HUB_DISABLE_XET": text == "1"},
    "HF_HUB_DISABLE_TELEMETRY": lambda text: {"HF_HUB_DISABLE_TELEMETRY": text == "1"},
    "HF_TOKEN": lambda token: {},  # read each time
}


def assert_ends_at_once(process, number, code):
    """A command that waits for the Hub ends with this code as soon as it gets this signal."""
    process.send_signal(number)
    began = time.monotonic()
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert time.monotonic() - began < 2
    assert b"Traceback" not in err


# What makes an answer long enough to be stopped in the middle: a token a step, and none that ends the text.
ENDLESS = ("--preset", "exact", "--window", "sliding:width=1", "--max-tokens", "1900")
ENDLESS += ("--ban-token", "<|im_end|>", "--ban-token", "<|endoftext|>", "--ban-token", "<|dlm_pad|>")


def environment(**changes):
    """This process's environment without what would change the command's behaviour."""
    kept = {key: value for key, value in os.environ.items() if key not in CLEAN and not key.startswith("DIFFUCODE_")}
    return kept | NOTHING_SET | changes


def diffucode(*args, stdin="", env=None, **options):
    """Run `diffucode ARGS`; text in, text out.

    It runs in this process, in a tenth of the time, unless `env` or `options` (of `subprocess.run`) ask for what only a
    process of its own has.
    """
    env = env or {}
    if options or any(name.startswith(READ_ONCE) and name not in SETTABLE for name in env):
        return diffucode_process(*args, stdin=stdin, env=env, **options)
    from huggingface_hub import constants

    from mlx_diffucoder.cli.app import run

    read = {"HF_HUB_OFFLINE": False}
    for name in SETTABLE.keys() & env.keys():
        read |= SETTABLE[name](env[name])
    with mock.patch.dict(os.environ, environment(**env), clear=True), mock.patch.multiple(constants, **read):
        return _run_here(run, args, _bytes(stdin))


def diffucode_process(*args, stdin="", env=None, **options):
    """Run `diffucode ARGS` as a user does, in a process of its own."""
    command = [COMMAND, *map(str, args)]
    done = subprocess.run(
        command, input=_bytes(stdin), capture_output=True, env=environment(**(env or {})), timeout=300, **options
    )
    done.stdout, done.stderr = done.stdout.decode(), done.stderr.decode()
    return done


def _bytes(stdin):
    return stdin if isinstance(stdin, bytes) else stdin.encode()


def _run_here(run, args, stdin):
    streams, sys.argv = (sys.stdin, sys.stdout, sys.stderr, sys.__stderr__, sys.argv), ["diffucode", *map(str, args)]
    sys.stdin = io.TextIOWrapper(io.BytesIO(stdin))
    sys.stdout, sys.stderr = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="") for _ in range(2))
    sys.__stderr__ = sys.stderr  # where errors are said
    try:
        try:
            code = run()
        except SystemExit as stop:
            code = stop.code or 0
        texts = []
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            texts.append(stream.buffer.getvalue().decode())
        return subprocess.CompletedProcess(args, code, *texts)
    finally:
        sys.stdin, sys.stdout, sys.stderr, sys.__stderr__, sys.argv = streams


def assert_one_line(done, *said, code=1):
    """It failed with one clear line on stderr, nothing on stdout and no traceback."""
    assert done.returncode == code, done.stderr
    assert done.stdout == ""
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert lines[0].startswith("diffucode: ")
    for words in said:
        assert words in lines[0]
