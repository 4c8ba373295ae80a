"""The engine: work joins and leaves between steps, and is what it would be alone."""

import queue
import threading
import time

import pytest

from mlx_diffucoder import GenerationConfig, generate, load
from mlx_diffucoder.config import HOLES
from mlx_diffucoder.decoding.batch import Batch
from mlx_diffucoder.errors import CheckpointError, PromptError
from mlx_diffucoder.infilling.context import Context
from mlx_diffucoder.infilling.fill import fill
from mlx_diffucoder.server.engine import Busy, Engine
from mlx_diffucoder.server.filling import Filling
from mlx_diffucoder.server.steps import Counts, Job, Steps
from mlx_diffucoder.server.work import Answering, Progress

from ..conftest import DATA
from .conftest import PROMPTS, wait_until

LONG = GenerationConfig(max_tokens=1024, temperature=5.0, seed=1, end_ids=())
ENDED = ("stop", "length")
FILLED = GenerationConfig(**HOLES | {"max_tokens": 8})
HOLE = ("def add(a, b):\n    ", "\n\nprint(add(1, 2))\n")


@pytest.fixture
def engine(request):
    made = Engine(lambda: load(DATA / "dream-b"), **getattr(request, "param", {}))
    made.start()
    wait_until(lambda: made.state == "ready")
    yield made
    made.stop(0)
    assert made.join(10)


def answering(prompt=PROMPTS[1], config=None, **more):
    return Answering(lambda tokenizer: tokenizer.encode_chat(prompt), config or GenerationConfig(max_tokens=24), **more)


def hand_in(engine, work):
    messages = queue.Queue()
    return messages, engine.submit(work, messages.put)


def last(messages):
    while True:
        message = messages.get(timeout=60)
        if isinstance(message, Exception) or message.reason:
            return message


def test_texts_of_work_that_joins_at_different_steps_are_those_of_each_alone(engine, dream_b):
    work = [answering(prompt) for prompt in PROMPTS]
    coming = []
    for one in work:
        coming.append(hand_in(engine, one)[0])
        wait_until(lambda one=one: one.progress.nfe > 0)
    filling = hand_in(engine, Filling(*HOLE, FILLED))[0]
    assert [last(one).text for one in coming] == [generate(*dream_b, one, GenerationConfig(max_tokens=24)) for one in PROMPTS]
    assert last(filling).text == fill(*dream_b, [HOLE[0], None, HOLE[1]], FILLED, tries=1).holes[0]


def test_answers_whose_canvas_changes_its_length_are_those_of_each_alone():
    dreamon, config = load(DATA / "dreamon-a"), GenerationConfig(max_tokens=40, until=("no such text",))
    engine = Engine(lambda: dreamon)
    engine.start()
    wait_until(lambda: engine.state == "ready")
    coming = [hand_in(engine, answering(prompt, config))[0] for prompt in PROMPTS]
    assert [last(one).text for one in coming] == [generate(*dreamon, one, config) for one in PROMPTS]
    engine.stop(0)
    assert engine.join(10)


def test_a_hole_is_filled_while_long_answers_run(engine):
    long = [hand_in(engine, answering(config=LONG, copy=copy)) for copy in range(3)]
    wait_until(lambda: engine.running == 3)
    assert last(hand_in(engine, Filling(*HOLE, FILLED))[0]).reason in ENDED
    assert engine.running == 3
    for _, cancel in long:
        cancel()
    wait_until(lambda: engine.counts.cancelled == 3)
    assert engine.running == 0


def test_forwards_stop_for_work_that_nobody_waits_for(engine):
    messages, cancel = hand_in(engine, answering(config=LONG))
    messages.get(timeout=30)
    cancel()
    wait_until(lambda: engine.running == 0)
    before = engine.counts.forwards
    time.sleep(0.1)
    assert engine.counts.forwards == before


def test_equal_work_is_done_once_and_both_get_it(engine):
    hold = hand_in(engine, answering(config=LONG))
    pairs = [hand_in(engine, answering(PROMPTS[0], key="same")) for _ in range(2)]
    pairs[0][1]()  # the first one leaves; the other still gets the text
    assert last(pairs[1][0]).reason in ENDED
    assert engine.counts.finished == 1
    hold[1]()


@pytest.mark.parametrize("engine", [{"parallel": 1, "queue": 1}], indirect=True)
def test_more_work_than_the_queue_holds_is_refused_with_a_time(engine):
    _, cancel = hand_in(engine, answering(config=LONG))
    wait_until(lambda: engine.running == 1)
    hand_in(engine, answering(config=LONG))
    with pytest.raises(Busy) as refused:
        hand_in(engine, answering(config=LONG))
    assert refused.value.seconds >= 1 and not refused.value.stopping
    cancel()


def test_work_that_has_a_free_place_does_not_count_as_waiting():
    engine = Engine(lambda: None, parallel=2, queue=1)  # it has begun nothing yet
    for _ in range(3):
        hand_in(engine, answering())
    with pytest.raises(Busy):
        hand_in(engine, answering())


def test_at_its_deadline_work_ends_with_the_text_that_is_certain(engine):
    progress = last(hand_in(engine, answering(config=LONG, deadline=0.5))[0])
    assert progress.reason == "time" and "\u2592" not in progress.text


@pytest.mark.parametrize("engine", [{"parallel": 1}], indirect=True)
def test_work_that_waits_is_late_too(engine):
    _, cancel = hand_in(engine, answering(config=LONG))
    wait_until(lambda: engine.running == 1)
    assert last(hand_in(engine, answering(deadline=0.1))[0]).reason == "time" and engine.running == 1
    cancel()


def overflowing(monkeypatch):
    """The second step of the engine's batch is not finite."""
    taken, step = [], Batch.step

    def failing(batch, ids=None):
        taken.append(ids)
        if len(taken) == 2:
            raise CheckpointError("not a number")
        return step(batch, ids)

    monkeypatch.setattr(Batch, "step", failing)


def test_all_work_starts_again_when_the_model_is_widened_also_what_waits_for_its_turn(pocket, monkeypatch):
    model, tokenizer = pocket
    widened = []
    monkeypatch.setattr(model, "widen", widened.append)
    overflowing(monkeypatch)
    steps, works = Steps(model, tokenizer, Counts()), [answering(PROMPTS[at % 3], copy=at) for at in range(6)]
    messages = [queue.Queue() for _ in works]
    for work, coming in zip(works, messages, strict=True):
        job = Job(work)
        job.join(coming.put)
        assert steps.begin(job)
    while steps.running:
        steps.advance()
    expected = [generate(model, tokenizer, prompt, GenerationConfig(max_tokens=24)) for prompt in PROMPTS]
    assert [last(one).text for one in messages] == expected * 2 and widened == [model] and model.widen is None


def test_a_forward_that_fails_is_told_to_all_whose_canvas_it_took(pocket, monkeypatch):
    overflowing(monkeypatch)
    steps, messages = Steps(*pocket, Counts()), [queue.Queue() for _ in range(6)]
    for coming in messages:
        job = Job(answering())
        job.join(coming.put)
        steps.begin(job)
    steps.advance()
    steps.advance()
    assert all(isinstance(last(one), CheckpointError) for one in messages) and not steps.running


def test_work_that_waits_for_memory_is_encoded_once(pocket, monkeypatch):
    encoded = []
    work = Answering(lambda tokenizer: encoded.append(1) or tokenizer.encode_chat(PROMPTS[0]), GenerationConfig(max_tokens=4))
    steps, running, job = Steps(*pocket, Counts()), Job(answering()), Job(work)
    assert steps.begin(running)
    running.needs = 2**60
    assert not steps.begin(job) and not steps.begin(job)
    running.needs = 0
    assert steps.begin(job) and len(encoded) == 1


def test_a_hole_at_its_deadline_does_not_repeat_the_line_after_it(pocket):
    prefix, suffix = "def f(x):\n    ", "    return x\nprint(f(1))\n"
    work, tokenizer = Filling(prefix, suffix, FILLED), pocket[1]
    ids = tokenizer.encode_plain("x += 1\n    return x\n")
    work._tell(tokenizer, Context([[], []], [""], [""], True), ids, ids, (), False, Progress())
    assert work.progress.settled == "x += 1\n"


def test_work_that_cannot_be_done_fails_alone(engine):
    wrong = hand_in(engine, answering("word " * 5000))[0]
    assert isinstance(last(wrong), PromptError)
    assert last(hand_in(engine, answering())[0]).reason in ENDED


def test_a_bug_in_one_piece_of_work_leaves_the_engine_running(engine, capsys):
    def broken(tokenizer):
        raise ZeroDivisionError

    assert isinstance(last(hand_in(engine, Answering(broken, GenerationConfig()))[0]), ZeroDivisionError)
    assert last(hand_in(engine, answering())[0]).reason in ENDED


def test_stopping_ends_what_runs_and_refuses_the_rest(engine):
    running = hand_in(engine, answering(config=LONG))[0]
    running.get(timeout=30)
    engine.stop(0.2)
    assert last(running).reason == "time"
    with pytest.raises(Busy) as refused:
        hand_in(engine, answering())
    assert refused.value.stopping and engine.join(10)


@pytest.mark.parametrize("engine", [{"parallel": 1}], indirect=True)
def test_work_ends_at_once_although_a_step_takes_long(engine, monkeypatch):
    running, goes_on, step = hand_in(engine, answering(config=LONG))[0], threading.Event(), Batch.step
    settled = running.get(timeout=30).settled
    monkeypatch.setattr(Batch, "step", lambda *given: goes_on.wait(30) and step(*given))
    waiting = hand_in(engine, answering())[0]
    engine.end()
    assert last(running).text.startswith(settled) and last(waiting).stopping
    goes_on.set()
    wait_until(lambda: engine.running == 0)
    assert running.empty()


@pytest.mark.parametrize("engine", [{"idle": 0.3}], indirect=True)
def test_an_idle_model_leaves_the_memory_and_comes_back(engine):
    first = last(hand_in(engine, answering())[0]).text
    wait_until(lambda: engine.state == "unloaded")
    assert last(hand_in(engine, answering())[0]).text == first


def test_a_model_that_cannot_be_loaded_is_told_to_those_who_wait():
    def missing():
        raise OSError("gone")

    engine = Engine(missing)
    messages = hand_in(engine, answering())[0]
    engine.start()
    assert isinstance(last(messages), OSError) and engine.join(5) and engine.state == "failed"


def test_all_work_runs_in_one_thread(engine):
    threads = set()

    def note(tokenizer):
        threads.add(threading.current_thread().name)
        return tokenizer.encode_chat(PROMPTS[0])

    last(hand_in(engine, Answering(note, GenerationConfig(max_tokens=4)))[0])
    assert threads == {"engine"}
