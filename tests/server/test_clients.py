"""What editors and other clients send gets what they parse. The requests are written from what is known of each client."""

import json
from pathlib import Path

import pytest

CLIENTS = json.loads((Path(__file__).parent / "clients.json").read_text())
TYPES = {"int": int, "float": (int, float), "str": str, "bool": bool, "list": list, "dict": dict}


def at(found, path):
    """The value at a path such as `choices.0.text`; None where there is none."""
    for part in [path] if path in found else path.split("."):
        found = found[int(part)] if isinstance(found, list) and int(part) < len(found) else dict(found or {}).get(part)
    return found


def parsed(answer, form):
    """The objects of an answer, as a client reads them."""
    assert answer.status_code == 200, answer.text
    if form == "json":
        assert answer.headers["content-type"] == "application/json" and answer.text.startswith("{")
        return [answer.json()]
    assert answer.headers["content-type"].startswith({"lines": "application/x-ndjson", "events": "text/event-stream"}[form])
    lines = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    return [json.loads(line) for line in lines if line != "[DONE]"]


@pytest.mark.parametrize("client", CLIENTS, ids=lambda client: client["client"])
def test_a_client_gets_what_it_parses(server, client):
    asked = {"json": client["body"]} if "body" in client else {}
    answer = server.http.request(client.get("method", "POST"), client["path"], headers=client.get("headers"), **asked)
    objects = parsed(answer, client["form"])
    for path, kind in client["reads"].items():
        value = at(objects[-1], path)
        assert isinstance(value, TYPES[kind]) and (kind == "bool" or not isinstance(value, bool)), path
    if "text" in client:
        text = "".join(found for one in objects if isinstance(found := at(one, client["text"]), str))
        assert text.strip() and "<|" not in text and "\u2592" not in text
