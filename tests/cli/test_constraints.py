"""`diffucode generate` with constraints, as a process."""

import json

from ..conftest import DATA
from .command import assert_one_line, diffucode

TINY = ("generate", "-m", DATA / "dream-b", "--max-tokens", "12")
POCKET = ("generate", "-m", DATA / "pocket-1", "--dtype", "float32", "--max-tokens", "48")
EVEN = "Implement process(k): return whether k is even."
PRIME = "Implement process(k): return whether k is a prime number."


def test_what_streams_is_the_text_with_its_prefill_and_up_to_where_it_ends():
    args = [*TINY, "--temp", "1.5", "--seed", "5", "--prefill", "def ", "--rule", "schedule"]
    whole = json.loads(diffucode(*args, "--json", "hi").stdout)
    stop = whole["text"][8:10]
    streamed = diffucode(*args, "--until", stop, "hi").stdout
    report = json.loads(diffucode(*args, "--until", stop, "--json", "hi").stdout)
    assert report["text"] == whole["text"][: whole["text"].index(stop, 3)]
    assert streamed.removesuffix("\n") == report["text"].removesuffix("\n")
    assert report["text"].startswith("def ")
    assert report["finish_reason"] == "stop"
    assert report["config"]["until"] == [stop]


def test_a_trace_shows_the_prefill_and_ends_where_the_answer_did(tmp_path):
    trace = tmp_path / "run.jsonl"
    args = [*POCKET, "--prefill", "def process(k", "--until", "for"]
    answer = diffucode(*args, "--trace", trace, PRIME).stdout
    assert answer.startswith("def process(k):\n")
    assert "for" not in answer
    assert diffucode("trace", "show", trace).stdout == answer
    counted = json.loads(diffucode("trace", "compare", trace, trace, "--json").stdout)["traces"][0]
    assert counted["useful_tokens"] == json.loads(diffucode(*args, "--json", PRIME).stdout)["useful_tokens"]


def shown(trace, *args):
    """What `trace show` prints, and what it says."""
    done = diffucode("trace", "show", trace, *args)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def test_a_trace_of_several_answers_has_each_of_them_and_shows_the_best(tmp_path):
    trace, tests = tmp_path / "run.jsonl", tmp_path / "tests.py"
    args = [*TINY[:-1], "8", "-n", "4", "--temp", "2.5", "--seed", "0", "--trace", trace]
    rows = json.loads(diffucode(*args, "--json", PRIME).stdout)["answers"]
    assert sorted(row["canvas"] for row in rows) == [1, 2, 3, 4]
    assert len({row["text"] for row in rows}) == 4
    for row in rows:
        text, said = shown(trace, "--row", row["canvas"])
        assert text.removesuffix("\n") == row["text"].removesuffix("\n")
        assert f"canvas {row['canvas']} of 4" in said
    best = diffucode(*args, "--rank", PRIME).stdout
    assert best.removesuffix("\n") == rows[0]["text"].removesuffix("\n")
    assert shown(trace) == (best, f"{trace}: canvas {rows[0]['canvas']} of 4, the one that was kept\n")
    assert f"# answer 1, canvas {rows[0]['canvas']}, mean" in diffucode(*args, PRIME).stdout
    tests.write_text("assert False\n")
    assert diffucode(*args, "--tests", tests, "--allow-code-execution", PRIME).returncode == 1
    assert shown(trace)[1] == f"{trace}: canvas 1 of 4\n"


def test_a_trace_of_a_template_shows_its_text_in_place(tmp_path):
    template, trace = tmp_path / "template.py", tmp_path / "run.jsonl"
    template.write_text("def process(k):\n    if k < 2:\n        <FILL:3>\n    return <FILL>\n")
    args = [*TINY[:-1], "4", "--lock", template, "--trace", trace]
    plain = diffucode(*args, PRIME).stdout
    assert plain.startswith("def process(k):\n    if k < 2:\n        ")
    assert shown(trace)[0] == plain
    assert shown(trace, "--row", "1")[0].startswith("def process(k):\n    if k < 2:\n        ")
    assert_one_line(diffucode("trace", "show", trace, "--row", "99"), "run.jsonl", "no canvas 99")
    found = json.loads(diffucode("trace", "compare", trace, trace, "--rows", "1,2", "--json").stdout)
    assert [one["row"] for one in found["traces"]] == [1, 2]
    assert found["first_difference"] is not None
    same = json.loads(diffucode("trace", "compare", trace, trace, "--json").stdout)
    assert (same["same_tokens"], same["first_difference"], same["same_text"]) == (1, None, True)
    assert_one_line(diffucode("trace", "compare", trace, trace, "--rows", "1"), "--rows must be N,M", code=2)


def test_the_best_of_several_answers_and_the_first_that_passes(tmp_path):
    tests = tmp_path / "tests.py"
    tests.write_text("assert process(8) and not process(9)\n")
    args = [*POCKET[:-1], "24", "-n", "2", "--temp", "0.7", "--seed", "1"]
    report = json.loads(diffucode(*args, "--json", "--tests", tests, "--allow-code-execution", EVEN).stdout)
    assert [row["passed"] for row in report["answers"]] == sorted((row["passed"] for row in report["answers"]), reverse=True)
    best = diffucode(*args, "--tests", tests, "--allow-code-execution", EVEN)
    assert best.stdout.removesuffix("\n") == report["answers"][0]["text"].removesuffix("\n")
    tests.write_text("assert False\n")
    args = [*TINY, *args[len(POCKET) :]]
    assert_one_line(diffucode(*args, "--tests", tests, "--allow-code-execution", EVEN), "none of the 2 answers", "tests.py")
    every = diffucode(*args, "-v", EVEN)
    assert every.stdout.count("# answer ") == 2
    assert "positions per useful token" in every.stderr


def test_a_locked_template_keeps_its_text(tmp_path):
    template = tmp_path / "template.py"
    template.write_bytes(b"def process(k):\r\n    if k < 2:\r\n        <FILL:3>\r\n    return <FILL:4>")
    report = json.loads(diffucode(*POCKET, "--lock", template, "--json", PRIME).stdout)
    first, second = (hole.replace("\n", "\r\n") for hole in report["holes"])
    assert report["text"] == template.read_bytes().decode().replace("<FILL:3>", first).replace("<FILL:4>", second)
    assert first == "return False"


def test_constraints_that_cannot_work_are_one_line(tmp_path):
    assert_one_line(diffucode(*TINY, "--ban-token", "two words", "hi"), "--ban-token", "not one token", code=2)
    assert_one_line(diffucode(*TINY, "--until", "", "hi"), "--until", code=2)
    assert_one_line(diffucode(*TINY, "-n", "2", "hi"), "--temp", code=2)
    assert_one_line(diffucode(*TINY, "--tests", tmp_path / "t.py", "hi"), "--allow-code-execution", code=2)
    missing = diffucode(*TINY, "--tests", tmp_path / "t.py", "--allow-code-execution", "hi")
    assert_one_line(missing, "t.py", "No such file")
    (tmp_path / "t.txt").write_text("no hole here\n")
    assert_one_line(diffucode(*TINY, "--lock", tmp_path / "t.txt", "hi"), "t.txt", "no hole")
    assert_one_line(diffucode(*TINY, "--lock", tmp_path / "t.txt", "--rank", "hi"), "--lock", code=2)
    (tmp_path / "t.txt").write_text("a = <FILL>\n")
    assert_one_line(diffucode(*TINY, "--lock", tmp_path / "t.txt", "--prefill", "b", "hi"), "--prefill", code=2)
