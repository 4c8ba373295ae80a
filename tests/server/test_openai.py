"""OpenAI's interface, asked by its own client and by hand."""

import json

import openai
import pytest

from mlx_diffucoder import GenerationConfig, generate

from .conftest import PROMPTS


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=server.url + "/v1", api_key="any", max_retries=0)


def messages(text=PROMPTS[1]):
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def expected(pocket):
    return generate(*pocket, PROMPTS[1], GenerationConfig(max_tokens=64))


def test_the_model_is_listed_and_found_by_its_name(client):
    assert [one.id for one in client.models.list()] == ["pocket"]
    assert client.models.retrieve("pocket").id == "pocket"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-5")


def test_a_chat_is_what_generate_writes(client, expected):
    answer = client.chat.completions.create(model="pocket", messages=messages())
    assert answer.choices[0].message.content == expected
    assert answer.choices[0].finish_reason == "stop"
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens > 20


def test_a_stream_gives_the_role_the_text_one_reason_the_usage_and_the_end(client, server, expected):
    asked = {"model": "pocket", "messages": messages(), "stream": True, "stream_options": {"include_usage": True}}
    chunks = list(client.chat.completions.create(**asked))
    assert chunks[0].choices[0].delta.role == "assistant"
    assert "".join(one.choices[0].delta.content or "" for one in chunks if one.choices) == expected
    assert [one.choices[0].finish_reason for one in chunks if one.choices and one.choices[0].finish_reason] == ["stop"]
    assert not chunks[-1].choices and chunks[-1].usage.completion_tokens > 0
    raw = server.http.post("/v1/chat/completions", json={**asked, "stream_options": None})
    assert raw.headers["content-type"].startswith("text/event-stream") and raw.headers["cache-control"] == "no-cache"
    assert raw.text.endswith("data: [DONE]\n\n") and '"usage"' not in raw.text


def test_diffusing_shows_the_whole_text_so_far_with_its_masks(server, expected):
    asked = {"messages": messages(), "stream": True, "diffusing": True}
    lines = server.http.post("/v1/chat/completions", json=asked).text.split("\n\n")
    chunks = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")]
    texts = [one["choices"][0]["delta"]["content"] for one in chunks if one["choices"][0]["delta"].get("content")]
    assert texts[-1] == expected and any("\u2592" in text for text in texts)


def test_a_completion_with_a_suffix_is_a_hole_and_without_one_raw_text(client, pocket):
    hole = client.completions.create(
        model="pocket", prompt="def add(a, b):\n    ", suffix="\n\nprint(add(1, 2))\n", max_tokens=32
    )
    assert hole.choices[0].text.startswith("return")
    two = client.completions.create(model="pocket", prompt=["def add(a, b):\n", "def sub(a, b):\n"], max_tokens=8)
    config = GenerationConfig(max_tokens=8, raw=True)
    assert two.choices[1].text == generate(*pocket, "def sub(a, b):\n", config)


def test_copies_with_a_seed_differ_from_each_other_and_are_the_same_each_time(client):
    def ask():
        asked = {"messages": messages("Write a function."), "n": 3, "temperature": 2.0, "seed": 7, "max_tokens": 6}
        return [one.message.content for one in client.chat.completions.create(model="pocket", **asked).choices]

    first = ask()
    assert len(set(first)) > 1 and ask() == first


def test_a_stop_text_ends_the_answer_before_it(client, expected):
    answer = client.chat.completions.create(model="pocket", messages=messages(), stop=["    return True"])
    assert answer.choices[0].message.content == expected[: expected.index("    return True")]
    assert answer.choices[0].finish_reason == "stop"


def test_more_tokens_than_the_context_has_are_fewer_and_a_short_answer_says_so(client):
    assert (
        client.chat.completions.create(model="pocket", messages=messages(), max_tokens=100_000).choices[0].finish_reason == "stop"
    )
    assert client.chat.completions.create(model="pocket", messages=messages(), max_tokens=4).choices[0].finish_reason == "length"


BAD = {
    "temperature": ["hot", -1, True, [1], 1e999],
    "top_p": [0, 2, "x"],
    "max_tokens": [0, -1, 1.5, 10**9, "8"],
    "n": [0, 1000],
    "stop": ["", [""], 7, [["x"]]],
    "seed": ["x", 1.5],
    "stream": ["yes", 1],
    "messages": [
        [],
        None,
        "hi",
        [{"role": "user", "content": None}],
        [{"role": "user", "content": "  "}],
        [{"role": "boss", "content": "x"}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}],
        [{"content": "x"}],
        [{"role": "user", "content": "half a pair \ud800"}],
    ],
    "tool_choice": ["required", {"type": "function", "function": {"name": "f"}}],
    "response_format": [{"type": "json_schema", "json_schema": {}}, {"type": "json_object"}],
    "logprobs": [True],
}


@pytest.mark.parametrize("field", BAD)
def test_a_wrong_value_is_a_400_that_names_its_field(server, field):
    for value in BAD[field]:
        body = json.dumps({"messages": messages(), field: value})
        answer = server.http.post("/v1/chat/completions", content=body, headers={"content-type": "application/json"})
        error = answer.json()["error"]
        assert (answer.status_code, error["type"]) == (400, "invalid_request_error"), value
        assert error["param"] == field


def test_a_prompt_beyond_the_context_says_so(server):
    answer = server.http.post("/v1/chat/completions", json={"messages": messages("word " * 5000)})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (400, "context_length_exceeded", "messages")


def test_an_echo_is_the_first_event_of_a_stream_and_the_start_of_a_text(server):
    asked = {"prompt": "def f(x):", "max_tokens": 8, "echo": True}
    whole = server.http.post("/v1/completions", json=asked).json()["choices"][0]["text"]
    lines = server.http.post("/v1/completions", json={**asked, "stream": True}).text.split("\n\n")
    texts = [json.loads(line[6:])["choices"][0]["text"] for line in lines if line.startswith("data: {")]
    assert texts[0] == "def f(x):" and "".join(texts) == whole and whole.startswith("def f(x):")


@pytest.mark.parametrize(
    "more", [{"prompt": [5], "suffix": "x"}, {"prompt": [[5]], "echo": True}, {"prompt": "x", "logprobs": 0}]
)
def test_what_a_completion_cannot_have_is_refused_by_its_name(server, more):
    answer = server.http.post("/v1/completions", json={"max_tokens": 2, **more})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, list(more)[1])


def test_another_model_is_not_found_and_an_empty_name_or_a_tag_is_this_one(server):
    def status(name):
        return server.http.post("/v1/chat/completions", json={"model": name, "messages": messages(), "max_tokens": 2}).status_code

    assert [status(name) for name in ("gpt-5", "", None, "pocket:latest")] == [404, 200, 200, 200]


def test_unknown_fields_are_ignored(server):
    more = {"id_slot": 3, "min_p": 0.1, "presence_penalty": 1, "tools": [{"type": "function"}], "tool_choice": "auto"}
    assert server.http.post("/v1/chat/completions", json={"messages": messages(), "max_tokens": 2, **more}).status_code == 200
