"""Ollama's interface, asked by its own client; and the client `llm`."""

import json

import ollama
import pytest

from mlx_diffucoder import GenerationConfig, generate

from .conftest import PROMPTS


@pytest.fixture(scope="module")
def client(server):
    return ollama.Client(server.url)


@pytest.fixture(scope="module")
def expected(pocket):
    return generate(*pocket, PROMPTS[1], GenerationConfig(max_tokens=64))


def test_the_model_is_listed_and_shown(client, server):
    assert [one.model for one in client.list().models] == ["pocket"]
    shown = client.show("pocket")
    assert shown.capabilities == ["completion", "insert"]
    kind = shown.modelinfo["general.architecture"]
    assert shown.modelinfo[f"{kind}.context_length"] == 2048 and shown.modelinfo["general.basename"] == "pocket"
    assert [one.model for one in client.ps().models] == ["pocket"]
    version = server.http.get("/api/version").json()["version"]
    assert [int(part) for part in version.split(".")] >= [0, 6, 4]


def test_generate_and_chat_are_what_generate_writes_whole_and_streamed(client, expected):
    asked = {"model": "pocket", "options": {"num_predict": 64}}
    assert client.generate(prompt=PROMPTS[1], **asked).response == expected
    assert "".join(one.response for one in client.generate(prompt=PROMPTS[1], stream=True, **asked)) == expected
    messages = [{"role": "user", "content": PROMPTS[1]}]
    assert client.chat(messages=messages, **asked).message.content == expected
    parts = list(client.chat(messages=messages, stream=True, **asked))
    assert "".join(one.message.content for one in parts) == expected
    assert parts[-1].done and parts[-1].done_reason == "stop" and parts[-1].eval_count > 0 and parts[-1].total_duration > 0


def test_a_suffix_makes_a_hole(client):
    found = client.generate(model="pocket", prompt="def add(a, b):\n    ", suffix="\n\nprint(add(1, 2))\n")
    assert found.response.startswith("return")


def test_a_request_without_a_prompt_only_loads(client):
    assert client.generate(model="pocket", prompt="").done and client.chat(model="pocket", messages=[]).done


def test_it_streams_lines_unless_told_not_to(server):
    answer = server.http.post("/api/generate", json={"model": "pocket", "prompt": PROMPTS[0], "options": {"num_predict": 8}})
    assert answer.headers["content-type"] == "application/x-ndjson" and answer.headers["cache-control"] == "no-cache"
    assert [json.loads(line)["done"] for line in answer.text.splitlines()][-1] is True


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/generate", {"model": "gpt", "prompt": "x"}, 404),
        ("/api/generate", {"prompt": 7}, 400),
        ("/api/generate", {"prompt": "x", "images": ["aa"]}, 400),
        ("/api/generate", {"prompt": "x", "format": "json"}, 400),
        ("/api/generate", {"prompt": "x", "options": {"temperature": "hot"}}, 400),
        ("/api/chat", {"messages": [{"role": "user", "content": "x", "images": ["aa"]}]}, 400),
        ("/api/chat", {"messages": "x"}, 400),
        ("/api/chat", {"messages": [{"role": "user", "content": "x"}], "tools": "all"}, 400),
        ("/api/show", {"model": "gpt"}, 404),
        ("/api/pull", {"model": "gpt"}, 404),
    ],
)
def test_errors_are_one_text(server, path, body, status):
    answer = server.http.post(path, json=body)
    assert answer.status_code == status and list(answer.json()) == ["error"] and isinstance(answer.json()["error"], str)


def test_llm_talks_to_it(server, expected, tmp_path, monkeypatch):
    monkeypatch.setenv("LLM_USER_PATH", str(tmp_path))
    from llm.default_plugins.openai_models import Chat

    model = Chat("diffucode", model_name="pocket", api_base=server.url + "/v1")
    model.key = "any"
    assert model.prompt(PROMPTS[1], stream=False).text() == expected
    assert "".join(model.prompt(PROMPTS[1], stream=True)) == expected
