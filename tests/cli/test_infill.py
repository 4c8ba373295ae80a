"""`diffucode infill`: as a process, and in this one where many files are tried."""

import json
import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_diffucoder import GenerationConfig, fill, load
from mlx_diffucoder.errors import FileError
from mlx_diffucoder.infilling.file import cut, newline_of, replace_file

from ..conftest import DATA
from .command import assert_one_line, diffucode

TINY = ("-m", DATA / "dream-b", "--max-tokens", "3", "--tries", "1", "--context", "16")
EVENS = b"def f(nums):\n    result = []\n    for x in nums:\n<FILL:10>\n            result.append(x)\n    return result\n"


def infilled(*args, stdin=b""):
    """What the verb writes to stdout, bytes; in this process."""
    done = refused(*args, stdin=stdin)
    assert done.returncode == 0, done.stderr
    return done.stdout.encode()


def refused(*args, stdin=b""):
    return diffucode("infill", *args, stdin=stdin)


@pytest.fixture
def holey(tmp_path):
    file = tmp_path / "a.py"
    file.write_bytes(EVENS)
    return file


def test_pocket_fills_a_hole_so_that_the_function_works(holey):
    prompt = "Write a function f(nums) that returns a list of the even numbers in nums."
    done = diffucode("infill", holey, "-m", "pocket", "--dtype", "float32", "--instruction", prompt, "-v")
    assert done.returncode == 0, done.stderr
    names = {}
    exec(done.stdout, names)
    assert names["f"]([1, 2, 3, 4]) == [2, 4]
    for number in ("text shown", "tokens in the holes", "NFE", "positions per useful token", "peak memory"):
        assert number in done.stderr


@pytest.mark.slow
def test_a_model_that_was_trained_to_infill_finds_what_two_holes_held_and_how_long_it_was(holey):
    holey.write_text("def f(nums):\n    total = 0\n<FILL>\n        if x % 2 == 0:\n<FILL>\n    return total\n")
    prompt = "Write a function f(nums) that returns the sum of the even numbers in nums."
    model = ("-m", "pocket", "--dtype", "float32", "--max-tokens", "8")
    report = json.loads(infilled(holey, *model, "--instruction", prompt, "--json"))
    assert report["holes"] == ["    for x in nums:", "            total += x"]


def test_two_holes_are_filled_together_and_json_holds_every_number(holey):
    holey.write_bytes(EVENS.replace(b"result = []", b"<FILL:2>"))
    report = json.loads(infilled(holey, *TINY, "--json"))
    assert report["lengths"] == [2, 10]
    before, between, after = holey.read_text().replace("<FILL:2>", "\0").replace("<FILL:10>", "\0").split("\0")
    assert report["text"] == before + report["holes"][0] + between + report["holes"][1] + after
    assert report["tried"] == 1
    assert report["positions"] > report["nfe"] > 1
    assert report["config"]["max_tokens"] == 3


@pytest.mark.parametrize(
    ("args", "holes"),
    [
        (["--at", "2"], (b"def f(nums):\n    result = []", b"\n    for")),
        (["--at", "2:5"], (b"def f(nums):\n    ", b"result = []\n")),
        (["--lines", "2-3"], (b"def f(nums):\n", b"\n<FILL:10>\n")),
        (["--lines", "2"], (b"def f(nums):\n", b"\n    for")),
        (["--at", "7"], (b"return result\n", b"")),
        (["--marker", "result = []"], (b"def f(nums):\n    ", b"\n    for")),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_hole_is_where_the_flag_says(args, holes):
    flags = dict(zip(args[::2], args[1::2], strict=True))
    source = cut("a.py", EVENS, flags.get("--marker", "<FILL>"), flags.get("--at"), flags.get("--lines"))
    before, after = source.pieces
    assert before.endswith(holes[0])
    assert after.startswith(holes[1])


def test_a_column_counts_characters_and_no_byte_order_mark():
    source = cut("a.py", b"\xef\xbb\xbfa = '\xf0\x9f\x98\x80' + b\r\nc\r\n", "<FILL>", "1:10", None)
    assert source.pieces[1] == b" b\r\nc\r\n"
    assert newline_of(source.data) == "\r\n"
    assert cut("a.py", b"\xef\xbb\xbfa\n", "<FILL>", None, "1").pieces == [b"\xef\xbb\xbf", b"\n"]
    assert cut("a.py", b"caf\xe9 = 1\n", "<FILL>", "1:6", None).pieces == [b"caf\xe9 ", b"= 1\n"]


def test_what_is_filled_in_takes_the_files_line_ends_and_encoding():
    source = cut("a.py", b"a\r\nb\r\n<FILL>\n", "<FILL>", None, None)
    assert source.filled(["x\ny"]) == b"a\r\nb\r\nx\r\ny\n"
    assert cut("a.py", b"caf\xe9\n<FILL>\n", "<FILL>", None, None).filled(["\xe8\n"]) == b"caf\xe9\n\xe8\n\n"
    with pytest.raises(FileError, match="not UTF-8"):
        cut("a.py", b"caf\xe9\n<FILL>\n", "<FILL>", None, None).filled(["\u20ac"])


PIECES = st.lists(
    st.one_of(
        st.sampled_from(
            [b"\r\n", b"\n", b"\r", b"\t", b"  ", b" \n", b"\xef\xbb\xbf", b"def f(x):", b"<|mask|>", b"\xff\xfe", b"\x0c"]
        ),
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6).map(str.encode),
        st.binary(max_size=4).map(lambda data: data.replace(b"\0", b"")),
        st.sampled_from(["\U0001f600", "e\u0301", "\u212b", "\u2028", "\ufffd"]).map(str.encode),
    ),
    max_size=8,
).map(b"".join)


MODEL, TOKENIZER = load(DATA / "dream-b")


@settings(max_examples=25, deadline=None)
@given(pieces=st.lists(PIECES, min_size=2, max_size=4), lengths=st.lists(st.sampled_from([b"", b":2"]), min_size=3, max_size=3))
def test_every_byte_outside_the_holes_is_preserved(pieces, lengths):
    pieces = [pieces[0] + b"a", *pieces[1:]]  # something to go by
    holes = [b"<FILL%b>" % length for length in lengths[: len(pieces) - 1]]
    data = b"".join(piece + hole for piece, hole in zip(pieces, [*holes, b""], strict=True))
    source = cut("file", data, "<FILL>", None, None)
    assert source.pieces == pieces
    filled = fill(MODEL, TOKENIZER, source.parts, GenerationConfig(max_tokens=3), context=16, tries=1)
    try:
        result = source.filled(filled.holes)
    except FileError:
        assert source.encoding == "latin-1"
        return
    texts = [text.replace("\n", newline_of(data)).encode(source.encoding) for text in filled.holes]
    assert result == b"".join(piece + text for piece, text in zip(pieces, [*texts, b""], strict=True))


def test_the_cost_is_that_of_the_window_not_of_the_file(tmp_path):
    def positions(count):
        file = tmp_path / "long.py"
        file.write_text("x = 1\n" * count + "<FILL:3>\n" + "y = 2\n" * count)
        return json.loads(infilled(file, *TINY, "--json"))

    short, long = positions(40), positions(1000)
    assert long["positions"] == short["positions"]
    assert long["seen"] == short["seen"] <= 32
    assert long["text"].count("x = 1\n") == 1000


def test_a_diff_is_what_patch_reads(holey):
    holey.write_bytes(EVENS.replace(b"\n", b"\r\n").removesuffix(b"\r\n"))
    printed = diffucode("infill", holey, *TINY, "--diff").stdout
    assert "\x1b" not in printed
    filled = infilled(holey, *TINY)
    assert filled != holey.read_bytes()
    if not shutil.which("patch"):
        pytest.skip("there is no patch here")
    subprocess.run(["patch", "--binary", holey], input=infilled(holey, *TINY, "--diff"), check=True, capture_output=True)
    assert holey.read_bytes() == filled


def test_write_replaces_the_file_and_keeps_its_mode_and_a_backup_asked_for(holey, tmp_path):
    filled = infilled(holey, *TINY)
    holey.chmod(0o750)
    link = tmp_path / "link.py"
    link.symlink_to(holey)
    done = diffucode("infill", link, *TINY, "--write", "--backup", ".orig")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert link.is_symlink()
    assert holey.read_bytes() == filled
    assert holey.stat().st_mode & 0o777 == 0o750
    assert (tmp_path / "link.py.orig").read_bytes() == EVENS
    assert len(list(tmp_path.iterdir())) == 3


def test_a_file_that_changed_meanwhile_is_left_alone(holey, tmp_path):
    with pytest.raises(FileError, match=r"a\.py: changed while"):
        replace_file(holey, b"what it was", b"what it becomes", ".orig")
    assert holey.read_bytes() == EVENS
    assert list(tmp_path.iterdir()) == [holey]


def test_an_editor_sends_and_gets_json():
    sent = json.dumps({"prefix": "def f(x):\r\n    return ", "suffix": "\r\n"})
    report = json.loads(diffucode("infill", "-", *TINY, stdin=sent).stdout)
    assert len(report["holes"]) == 1
    report = json.loads(infilled("-", *TINY, stdin=b'{"parts": ["a = ", 2, "b = ", null]}'))
    assert len(report["holes"]) == 2
    assert report["lengths"][0] == 2
    assert infilled("-", *TINY, stdin=b"a = <FILL:2>\n").startswith(b"a = ")


def test_a_trace_shows_every_length_that_was_tried_and_draws_the_one_that_was_kept(holey, tmp_path):
    trace, page = tmp_path / "run.jsonl", tmp_path / "run.html"
    holey.write_bytes(EVENS.replace(b"<FILL:10>\n            ", b"        if <FILL>\n            "))
    report = json.loads(infilled(holey, *TINY[:2], "--max-tokens", "4", "--json", "--trace", trace))
    done = diffucode("trace", "show", trace)
    assert done.stdout == report["text"]
    assert f"canvas {report['kept']} of {report['tried']}, the one that was kept" in done.stderr
    assert diffucode("trace", "plot", trace, "--row", "1", "--out", page).returncode == 0
    data = json.loads(page.read_text().split('type="application/json">')[1].split("</script>")[0])
    before = "".join(data["pieces"][str(id)] for id in data["tokens"][: data["steps"][0]["at"][0]])
    assert before.startswith("def f(nums):\n")
    assert before.endswith("        if")
    assert (data["tokens"].count(data["mask"]), data["prompt"]) == (4, "")
    assert_one_line(refused(holey, *TINY, "--trace", holey), "--trace", "a.py", "is not a trace")


def test_what_cannot_be_filled_is_one_line(holey, tmp_path):
    assert_one_line(refused(tmp_path / "no.py", *TINY), "no.py", "No such file")
    assert_one_line(refused(holey, *TINY, "--marker", "<HOLE>"), "a.py", "no hole", "<HOLE>", "--at")
    assert_one_line(refused(holey, *TINY, "--at", "99"), "--at 99", "7 lines")
    assert_one_line(refused(holey, *TINY, "--at", "1:99"), "--at 1:99", "12 characters")
    assert_one_line(refused(holey, *TINY, "--lines", "3-2"), "--lines 3-2")
    assert_one_line(refused(holey, *TINY, "--backup", ".orig"), "--write", code=2)
    assert_one_line(refused(holey, "-m", "nowhere/at-all", "--system", "Be brief."), "--system", "instruction", code=2)
    assert_one_line(refused("-", *TINY, "--write", stdin=b"a<FILL>"), "--write", code=2)
    assert_one_line(refused("-", *TINY, stdin=b'{"prefix": 3}'), "stdin", "prefix must be text")
    assert_one_line(refused("-", *TINY, stdin=b'{"prefix": "a", "middle": "b"}'), "middle")
    assert_one_line(refused("-", *TINY, stdin=b"<FILL>"), "--instruction")
    holey.write_bytes(b"\x7fELF\0\0<FILL>")
    assert_one_line(refused(holey, *TINY), "a.py", "binary")
    holey.write_bytes(b"x = <FILL:5000>")
    assert_one_line(refused(holey, *TINY), "a.py: a hole", "5000 tokens", "2048")
    assert_one_line(diffucode("generate", *TINY[:4], "--lock", holey, "hi"), "a.py: a hole", "5000 tokens", "2048")
    holey.write_bytes(b"x = <FILL:0>")
    assert_one_line(refused(holey, *TINY), "a.py:1", "0 tokens")
    for flag in ("--prefill", "--until", "--reference"):  # are of answers
        assert_one_line(refused(holey, *TINY, flag, "x"), "No such option", flag, code=2)
    (tmp_path / "a.py.orig").write_bytes(b"kept")
    assert_one_line(refused(holey, *TINY, "--write", "--backup", ".orig"), "a.py.orig", "exists")
