"""A server in a thread of the tests' process, with the bundled model."""

import asyncio
import threading
import time
from typing import NamedTuple

import httpx
import pytest
import uvicorn

from mlx_diffucoder import GenerationConfig, load
from mlx_diffucoder.config import HOLES
from mlx_diffucoder.server.app import app_of
from mlx_diffucoder.server.engine import Engine
from mlx_diffucoder.server.serve import configured, listening
from mlx_diffucoder.server.state import State

PROMPTS = [
    "Write a function f(nums) that returns the sum of the squares of the even numbers in nums.",
    "Implement process(k): return whether k is a prime number.",
    "Write a function solve that returns the sum of the digits of n. The argument is n.",
]


class Running(NamedTuple):
    url: str
    engine: Engine
    http: httpx.Client


class Quiet(uvicorn.Server):
    def install_signal_handlers(self):
        pass


def state_of(engine, name="pocket"):
    return State(engine, name, GenerationConfig(max_tokens=64), GenerationConfig(**HOLES))


def running(app):
    """Start an application; returns its address and a function that ends it."""
    on = listening("127.0.0.1", 0)
    server = Quiet(configured(app))
    server.config.timeout_graceful_shutdown = 1
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[on])), daemon=True)
    thread.start()

    def end():
        server.should_exit = True
        thread.join(5)

    return f"http://127.0.0.1:{on.getsockname()[1]}", end


def wait_until(true, seconds=20):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.fixture(scope="session")
def server():
    engine = Engine(lambda: load("pocket", dtype="float32"))
    url, end = running(app_of(state_of(engine)))
    engine.start()
    with httpx.Client(base_url=url, timeout=60) as http:
        wait_until(lambda: http.get("/health").status_code == 200)
        yield Running(url, engine, http)
    end()
    engine.stop(0)
    assert engine.join(10)
