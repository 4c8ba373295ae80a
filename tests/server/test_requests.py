"""What arrives is checked: who asks, and what; the server goes on whatever comes."""

import gc
import gzip
import json
import socket

import httpx
import pytest

from mlx_diffucoder.server import bodies, serve
from mlx_diffucoder.server.app import app_of
from mlx_diffucoder.server.engine import Engine
from mlx_diffucoder.server.fim import rendered
from mlx_diffucoder.server.guard import is_loopback

from .conftest import PROMPTS, running, state_of, wait_until

HEAD = (
    "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
    "Content-Type: application/json\r\nContent-Length: {size}\r\n\r\n"
)
JSON = {"content-type": "application/json"}
PATHS = [
    "/v1/chat/completions",
    "/v1/completions",
    "/infill",
    "/completion",
    "/api/generate",
    "/api/chat",
    "/v1/edit/completions",
]
CHAT = {"messages": [{"role": "user", "content": PROMPTS[0]}], "max_tokens": 4}

BODIES = {
    "no JSON": (b"{", 400),
    "an array": (b"[1]", 400),
    "nothing": (b"", 400),
    "NaN": (b'{"temperature": NaN, "prompt": "x", "input_prefix": "x"}', 400),
    "nested": (b"[" * 100_000, 400),
    "nested in a field": (b'{"prompt": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000 + b"}", 400),
    "not UTF-8": (b'{"prompt": "\xff\xfe"}', 400),
    "a huge number": (b'{"prompt": "x", "seed": ' + b"9" * 5000 + b"}", 400),
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", BODIES)
def test_a_malformed_body_gets_its_status_in_the_form_of_the_interface(server, path, kind):
    data, status = BODIES[kind]
    answer = server.http.post(path, content=data, headers=JSON)
    error = answer.json()["error"]
    assert answer.status_code == status
    assert isinstance(error, str) if path.startswith("/api/") else {"message", "type", "param", "code"} == set(error)


def asked_raw(server, data):
    """What bytes are answered with. The client's half of the connection is closed after them."""
    with connected(server) as client:
        client.sendall(data)
        client.shutdown(socket.SHUT_WR)
        head, _, body = b"".join(iter(lambda: client.recv(65536), b"")).partition(b"\r\n\r\n")
    return head.decode().lower(), json.loads(body)


NO_HTTP = {
    "too short": HEAD.replace("{size}", "9") + "{}",
    "a negative length": HEAD.replace("{size}", "-9"),
    "two lengths": HEAD.replace("{size}", "2, 3") + "{}",
    "no host": HEAD.replace("Host: localhost\r\n", "").replace("{size}", "2") + "{}",
    "wrong chunks": HEAD.replace("Content-Length: {size}", "Transfer-Encoding: chunked") + "zz\r\n{}\r\n",
    "TLS": "\x16\x03\x01{path}\r\n\r\n",
}


@pytest.mark.parametrize("path", ["/infill", "/api/chat"])
@pytest.mark.parametrize("kind", NO_HTTP)
def test_what_is_no_http_is_a_400_with_an_envelope_and_an_id(server, path, kind):
    head, body = asked_raw(server, NO_HTTP[kind].replace("{path}", path).encode())
    assert head.startswith("http/1.1 400 bad request\r\n") and "\r\nx-request-id: " in head and body["error"]
    assert server.http.get("/health").status_code == 200


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "", "application/xml"])
def test_another_content_type_is_refused(server, kind):
    assert server.http.post("/v1/chat/completions", content=json.dumps(CHAT), headers={"content-type": kind}).status_code == 415


def test_a_compressed_body_is_refused(server):
    data, headers = gzip.compress(json.dumps(CHAT).encode()), {**JSON, "content-encoding": "gzip"}
    assert server.http.post("/v1/chat/completions", content=data, headers=headers).status_code == 415


@pytest.mark.parametrize("value", ["NaN", "-Infinity", '"\\ud800"', '{"a": [1e999]}', '["\\udfff"]'])
@pytest.mark.parametrize("field", ["stop", "temperature", "unknown"])
def test_what_json_has_not_is_refused_with_its_field(server, field, value):
    answer = server.http.post("/completion", content=f'{{"prompt": "x", "{field}": {value}}}', headers=JSON)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, field)


def test_a_body_that_is_too_large_is_refused_whether_its_length_is_told_or_not(server):
    data = b" " * (bodies.LARGEST + 1)
    assert server.http.post("/infill", content=data, headers=JSON).status_code == 413
    assert (
        server.http.post(
            "/infill", content=(data[start : start + 2**20] for start in range(0, len(data), 2**20)), headers=JSON
        ).status_code
        == 413
    )


def connected(server):
    return socket.create_connection(server.url.removeprefix("http://").split(":"), timeout=10)


def test_a_length_that_is_too_large_is_refused_at_once_and_a_client_that_sends_all_the_same_sees_it(server):
    head = HEAD.format(path="/infill", size=2 * bodies.LARGEST).encode()
    with connected(server) as client:
        client.sendall(head)
        assert client.recv(100).startswith(b"HTTP/1.1 413")
    with connected(server) as client:  # it asks for the connection to be closed
        client.sendall(head + b" " * 2 * bodies.LARGEST)
        assert client.recv(100).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("begun", [HEAD.format(path="/infill", size=100) + "{", "POST /infill HTTP/1.1\r\nHost: loc"])
def test_what_does_not_arrive_ends_in_time_and_others_are_answered(server, monkeypatch, begun):
    monkeypatch.setattr(bodies, "SECONDS", 0.3)
    monkeypatch.setattr(serve, "SILENT", 0.3)
    stalled = [connected(server) for _ in range(50)]
    for one in stalled:
        one.sendall(begun.encode())
    assert server.http.post("/v1/chat/completions", json=CHAT).status_code == 200
    assert stalled[0].recv(100).startswith(b"HTTP/1.1 408") and stalled[-1].recv(100).startswith(b"HTTP/1.1 408")
    for one in stalled:
        one.close()


def test_a_client_that_keeps_its_connection_as_long_as_it_is_told_to_finds_it_open(server):
    told = server.http.get("/health").headers["keep-alive"]
    assert int(told.removeprefix("timeout=")) < serve.configured(None).timeout_keep_alive <= serve.IDLE


@pytest.mark.parametrize("stream", [True, False])
def test_work_ends_when_its_client_hangs_up_and_nothing_is_logged(server, stream, caplog):
    body = json.dumps({**CHAT, "max_tokens": 1800, "temperature": 5.0, "seed": 3, "stream": stream})
    host, port = server.url.removeprefix("http://").split(":")
    request = HEAD.format(path="/v1/chat/completions", size=len(body))
    before = server.engine.counts.cancelled + server.engine.counts.finished
    with socket.create_connection((host, int(port))) as client:
        client.sendall((request + body).encode())
        wait_until(lambda: server.engine.running > 0)
    wait_until(lambda: server.engine.counts.cancelled + server.engine.counts.finished == before + 1)
    assert server.engine.running == 0
    httpx.get(f"{server.url}/health")  # the server has seen it too; a connection that stood idle so long may be closed
    gc.collect()
    assert not caplog.records


def test_what_is_not_there_is_told_in_the_form_of_the_interface(server):
    assert server.http.get("/v1/nothing").json()["error"]["code"] == "not_found"
    refused = server.http.get("/v1/chat/completions")
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")
    assert isinstance(server.http.get("/api/nothing").json()["error"], str)


def test_a_path_may_end_with_a_slash(server):
    assert server.http.get("/v1/models/").json() == server.http.get("/v1/models").json()
    assert server.http.post("/v1/chat/completions/", json=CHAT).status_code == 200


def test_every_head_has_an_id_of_its_own(server):
    ids = [server.http.get(path).headers["x-request-id"] for path in ("/health", "/health", "/nothing", "/v1/models")]
    assert len(set(ids)) == 4


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8012", "127.0.0.1.evil.example", "", "192.168.1.4", "[::1"])
def test_a_foreign_host_is_refused(server, host):
    assert server.http.get("/health", headers={"host": host}).status_code == 403


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost.evil.example", "vscode-webview://x", "http://[::1"]
)
def test_a_foreign_origin_is_refused(server, origin):
    answer = server.http.post("/v1/chat/completions", json=CHAT, headers={"origin": origin})
    assert answer.status_code == 403 and "access-control-allow-origin" not in answer.headers


@pytest.mark.parametrize("origin", ["http://localhost:3000", "http://127.0.0.1:8012", "http://[::1]:80", "https://localhost"])
def test_a_page_of_this_machine_may_ask(server, origin):
    headers = {
        "origin": origin,
        "access-control-request-method": "POST",
        "access-control-request-headers": "content-type, x-mine",
    }
    answer = server.http.options("/v1/chat/completions", headers=headers)
    assert answer.status_code == 204 and answer.headers["access-control-allow-origin"] == origin
    assert answer.headers["access-control-allow-headers"] == "content-type, x-mine"


def test_with_a_key_all_but_health_and_the_page_need_it():
    url, end = running(app_of(state_of(Engine(lambda: None)), key="sécret", local=False, origins=["http://mine.example"]))
    with httpx.Client(base_url=url, headers={"host": "any.example"}) as http:
        assert http.get("/health").status_code == 503 and http.get("/").status_code == 200
        for wrong in ({}, {"authorization": "Bearer wrong"}, {"x-api-key": "secre"}, {"authorization": "secret"}):
            refused = http.get("/v1/models", headers=wrong)
            assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
        key = "sécret".encode()
        for right in ({"authorization": b"Bearer " + key}, {"authorization": b"bearer " + key}, {"x-api-key": key}):
            assert http.get("/v1/models", headers=right).status_code == 200
        mine = http.get("/v1/models", headers={"origin": "http://mine.example", "x-api-key": key})
        assert mine.headers["access-control-allow-origin"] == "http://mine.example"
    end()


def test_what_is_this_machine():
    assert all(map(is_loopback, ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "::1", "[::1]", "a.localhost"]))
    assert not any(map(is_loopback, ["0.0.0.0", "::", "10.0.0.1", "localhost.example", "", "127.0.0.1.example"]))


@pytest.mark.parametrize(
    "prompt",
    [
        "<|fim_prefix|>A\n<|fim_suffix|>\nB<|fim_middle|>",
        "<|fim_suffix|>\nB<|fim_prefix|>A\n<|fim_middle|>",
        "<fim_prefix>A\n<fim_suffix>\nB<fim_middle>",
        "<｜fim▁begin｜>A\n<｜fim▁hole｜>\nB<｜fim▁end｜>",
        "<PRE> A\n <SUF>\nB <MID>",
        "[SUFFIX]\nB[PREFIX]A\n",
        "<|code_prefix|>A\n<|code_suffix|>\nB<|code_middle|>",
        "[gMASK]<sop><|user|>\n<|code_suffix|>\nB<|code_prefix|>A\n<|code_middle|><|assistant|>\n",
        "<s><PRE> A\n <SUF>\nB <MID>",
    ],
)
def test_prompts_of_other_models_are_read_as_holes(prompt):
    assert rendered(prompt) == ("A\n", "\nB")


def test_other_files_stand_before_the_prefix_and_plain_text_is_no_hole():
    prompt = "<|repo_name|>mine\n<|file_sep|>a.py\nx = 1\n<|file_sep|>b.py\n<|fim_prefix|>A<|fim_suffix|>B<|fim_middle|>"
    assert rendered(prompt) == ("# a.py\nx = 1\n# b.py\nA", "B")
    assert rendered("def f(x):") is None and rendered("<|fim_prefix|> alone") is None


def test_the_next_edit_is_the_region_with_its_hole_filled(server):
    region = "def add(a, b):\n    <|cursor|>\n"
    edit = f"<|code_to_edit|>\n{region}<|/code_to_edit|>"
    file = f"<|current_file_content|>\nimport os\n{edit}\nprint(add(1, 2))\n<|/current_file_content|>"
    answer = server.http.post("/v1/edit/completions", json={"messages": [{"role": "user", "content": file}], "max_tokens": 16})
    text = answer.json()["choices"][0]["message"]["content"]
    assert text.startswith("```\ndef add(a, b):\n    return") and text.endswith("\n```") and "cursor" not in text
    body = {"messages": [{"role": "user", "content": file}], "max_tokens": 16, "stream": True}
    lines = server.http.post("/v1/edit/completions", json=body).text.split("\n\n")
    chunks = [json.loads(line[6:])["choices"][0] for line in lines if line.startswith("data: {")]
    assert [one["delta"].get("content") for one in chunks] == ["", text, None] and "data: [DONE]" in lines
    nothing = server.http.post("/v1/edit/completions", json=CHAT)
    assert (nothing.status_code, nothing.json()["error"]["param"]) == (400, "messages")


SQUARES = "def squares(n):\n    result = []\n    for i in range(n):\n        {}.append(i * i)\n    return result"


@pytest.mark.parametrize(("before", "wrong"), [("", "reslt"), ("import os\n", "reslt"), ("import os\n", "rslt<|cursor|>")])
def test_the_next_edit_writes_a_name_that_does_not_fit_anew_unless_it_is_being_typed(server, before, wrong):
    edit = f"<|code_to_edit|>\n{SQUARES.format(wrong)}\n<|/code_to_edit|>\n"
    file = f"<|current_file_content|>\n{before}{edit}<|/current_file_content|>"
    body = {"messages": [{"role": "user", "content": file}], "max_tokens": 8, "n": 2}
    texts = [one["message"]["content"] for one in server.http.post("/v1/edit/completions", json=body).json()["choices"]]
    assert texts[0] == texts[1] and (texts[0] == f"```\n{SQUARES.format('result')}\n```") == ("cursor" not in wrong)


def test_a_region_in_which_all_fits_gets_no_edit(server):
    region = f"<|code_to_edit|>\n<|cursor|>{SQUARES.format('result')}\n<|/code_to_edit|>"
    body = {"messages": [{"role": "user", "content": region}], "max_tokens": 8}
    assert server.http.post("/v1/edit/completions", json=body).json()["choices"][0]["message"]["content"] == "None"


def test_64_requests_of_which_32_hang_up_give_the_other_32_their_texts(server):
    body = json.dumps({"messages": [{"role": "user", "content": PROMPTS[2]}], "max_tokens": 32})
    host, port = server.url.removeprefix("http://").split(":")
    head = HEAD.format(path="/v1/chat/completions", size=len(body))
    alone = server.http.post("/v1/chat/completions", content=body, headers=JSON)
    expected = alone.json()["choices"][0]["message"]["content"]
    clients = [socket.create_connection((host, int(port))) for _ in range(64)]
    for one in clients:
        one.sendall((head + body).encode())
    for one in clients[::2]:
        one.close()
    for one in clients[1::2]:
        one.settimeout(60)
        data = b""
        while part := one.recv(65536):
            data += part
        assert json.loads(data.partition(b"\r\n\r\n")[2])["choices"][0]["message"]["content"] == expected
        one.close()
    wait_until(lambda: server.engine.running == server.engine.waiting == 0)
