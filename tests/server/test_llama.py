"""llama.cpp's interface: what llama.vim and llama.vscode send and read."""

import json
import urllib.request

import httpx
import pytest

from mlx_diffucoder import GenerationConfig
from mlx_diffucoder.config import HOLES
from mlx_diffucoder.infilling.fill import fill
from mlx_diffucoder.server.app import app_of
from mlx_diffucoder.server.engine import Engine

from .conftest import running, state_of

HOLE = {"input_prefix": "def add(a, b):\n", "prompt": "    ", "input_suffix": "\n\nprint(add(1, 2))\n", "n_predict": 16}
VIM = {
    **HOLE,
    "input_extra": [{"filename": "a.py", "text": "import os\n"}],
    "n_indent": 4,
    "id_slot": 0,
    "samplers": ["top_k", "top_p", "infill"],
    "top_k": 40,
    "top_p": 0.99,
    "stream": False,
    "cache_prompt": True,
    "t_max_prompt_ms": 60000,
    "t_max_predict_ms": 60000,
    "response_fields": ["content", "timings/prompt_n", "truncated", "tokens_cached", "generation_settings/n_ctx"],
}


def test_a_hole_is_what_infill_with_one_try_writes(server, pocket):
    answer = server.http.post("/infill", json=HOLE).json()
    parts = [HOLE["input_prefix"] + HOLE["prompt"], None, HOLE["input_suffix"]]
    expected = fill(*pocket, parts, GenerationConfig(**{**HOLES, "max_tokens": 16}), tries=1).holes[0]
    assert answer["content"] == expected and answer["stop"] and answer["stop_type"] == "eos"
    assert answer["timings"]["prompt_n"] > 0 and answer["generation_settings"]["n_ctx"] == 2048


def test_what_llama_vim_sends_gets_the_fields_that_it_names_in_one_compact_object(server):
    headers = {"Authorization": "Bearer ", "Content-Type": "application/json"}  # it has no key
    request = urllib.request.Request(server.url + "/infill", json.dumps(VIM).encode(), headers)
    text = urllib.request.urlopen(request, timeout=60).read().decode()
    assert text.startswith('{"content":') and list(json.loads(text)) == VIM["response_fields"]


def test_other_files_stand_before_the_hole_with_their_names(server, pocket):
    extra = [{"filename": "a.py", "text": "import os"}, {"filename": "b.ts", "text": "let b\n"}, {"text": "x = 1\n"}]
    answer = server.http.post("/infill", json={**HOLE, "input_extra": extra}).json()
    before = "# a.py\nimport os\n// b.ts\nlet b\nx = 1\n" + HOLE["input_prefix"] + HOLE["prompt"]
    expected = fill(*pocket, [before, None, HOLE["input_suffix"]], GenerationConfig(**{**HOLES, "max_tokens": 16}), tries=1)
    assert (answer["content"], answer["tokens_evaluated"]) == (expected.holes[0], expected.seen)


def test_warming_up_answers_at_once(server):
    answer = server.http.post("/infill", json={**VIM, "n_predict": 0, "response_fields": []})
    assert answer.status_code == 200 and answer.json()["content"] == ""


def test_a_hole_is_streamed_with_one_end(server):
    text = server.http.post("/infill", json={**HOLE, "stream": True}).text
    events = [json.loads(line.removeprefix("data: ")) for line in text.split("\n\n") if line]
    assert [one["stop"] for one in events] == [False, True] and events[0]["content"].startswith("return")


def test_a_hole_that_may_be_longer_than_the_context_is_shorter(server):
    short = server.http.post("/infill", json={**HOLE, "n_predict": 64}).json()["content"]
    assert server.http.post("/infill", json={**HOLE, "n_predict": 4096}).json()["content"] == short
    asked = {"prompt": HOLE["input_prefix"] + HOLE["prompt"], "suffix": HOLE["input_suffix"], "max_tokens": 100_000}
    assert server.http.post("/v1/completions", json=asked).json()["choices"][0]["text"] == short


def test_a_stop_text_ends_a_hole_and_is_told(server):
    whole = server.http.post("/infill", json=HOLE).json()["content"]
    found = server.http.post("/infill", json={**HOLE, "stop": [whole[2:4], "no such text"]}).json()
    assert (found["content"], found["stop_type"]) == (whole[:2], "word")
    blank = server.http.post("/infill", json={**HOLE, "stop": [" "], "n_predict": 4}).json()
    assert blank["content"].startswith(whole.split(" ")[0])  # not at the blank that stands before the hole


def test_a_rendered_prompt_is_the_same_hole(server):
    plain = server.http.post("/infill", json=HOLE).json()["content"]
    prompt = f"<|fim_prefix|>{HOLE['input_prefix']}    <|fim_suffix|>{HOLE['input_suffix']}<|fim_middle|>"
    assert server.http.post("/completion", json={"prompt": prompt, "n_predict": 16}).json()["content"] == plain
    chat = server.http.post("/v1/completions", json={"prompt": prompt, "max_tokens": 16}).json()
    assert chat["choices"][0]["text"] == plain


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/infill", {}, "prompt"),
        ("/infill", {**HOLE, "model": 3}, "model"),
        ("/infill", {"input_prefix": "", "input_suffix": "  \n", "n_predict": 8}, "prompt"),
        ("/infill", {"input_prefix": 7}, "input_prefix"),
        ("/infill", {**HOLE, "input_extra": [{"filename": "x"}]}, "input_extra"),
        ("/infill", {**HOLE, "n_predict": "8"}, "n_predict"),
        ("/infill", {**HOLE, "t_max_predict_ms": -1}, "t_max_predict_ms"),
        ("/completion", {"prompt": ""}, "prompt"),
        ("/completion", {"prompt": {"a": 1}}, "prompt"),
        ("/completion", {}, "prompt"),
    ],
)
def test_a_wrong_request_names_its_field(server, path, body, param):
    answer = server.http.post(path, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_what_clients_ask_about_the_server(server):
    assert server.http.get("/health").json() == {"status": "ok"}
    props = server.http.get("/props").json()
    assert props["default_generation_settings"]["n_ctx"] == 2048 and props["total_slots"] == 8
    assert len(server.http.get("/slots").json()) == 8
    metrics = server.http.get("/metrics").text
    for name in (
        "requests_running",
        "requests_waiting",
        "requests_cancelled_total",
        "forwards_total",
        "positions_total",
        "tiles_total",
    ):
        assert f"\ndiffucode_{name} " in metrics


def test_while_the_model_is_loaded_health_and_requests_say_so():
    url, end = running(app_of(state_of(Engine(lambda: None))))  # never started
    answer = httpx.get(url + "/health")
    assert answer.status_code == 503
    assert answer.json() == {"error": {"code": 503, "message": "Loading model", "type": "unavailable_error"}}
    for path, body in (("/infill", HOLE), ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}]})):
        refused = httpx.post(url + path, json=body)
        assert refused.status_code == 503 and refused.headers["retry-after"]
    end()
