"""Results files: their schema, what makes two comparable, and the pictures drawn of them."""

import json
import re
import xml.etree.ElementTree as ElementTree

import pytest

from mlx_diffucoder.bench.compare import comparable_rows, differences
from mlx_diffucoder.bench.report import SCHEMA, VERSION, Report, mismatches, read_report
from mlx_diffucoder.errors import BenchError

from .reports import made_report, unshared


@pytest.fixture
def content():
    return made_report()


def places(value, at=()):
    """Every key and list element in a JSON value, as a path."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield (*at, key)
        yield from places(inner, (*at, key))


def test_a_report_as_bench_writes_it_fits_the_schema(content, tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(content))
    assert read_report(tmp_path / "a.json") == content


def test_every_key_of_the_schema_is_missed_by_its_name(content):
    free = ("shape", "config")  # what stands in these is not told
    paths = [path for path in places(content) if isinstance(path[-1], str) and not any(part in free for part in path[:-1])]
    paths = [path for path in paths if "ratio" not in path[:-1]]
    assert len(paths) > 100
    for path in paths:
        damaged = unshared(content)
        inner = damaged
        for part in path[:-1]:
            inner = inner[part]
        del inner[path[-1]]
        (said,) = mismatches(damaged, SCHEMA)
        assert said.endswith("is missing")
        assert path[-1] in said


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("trials",), "5", "trials is '5'"),
        (("trials",), True, "trials is 'True'"),
        (("forwards",), [], "forwards is not a list"),
        (("forwards", 1, "time"), 3, "forwards[1].time is not an object"),
        (("step", "parts", "host"), None, "step.parts.host is 'None'"),
        (("ceilings", "flops"), float("nan"), "ceilings.flops is nan"),
        (("decoders", 0, "generations", 0, "nfe"), 1.5, "decoders[0].generations[0].nfe is '1.5'"),
        (("decoders",), {}, "decoders is not a list"),
    ],
)
def test_a_value_of_the_wrong_type_is_named(content, tmp_path, path, value, said):
    inner = content
    for part in path[:-1]:
        inner = inner[part]
    inner[path[-1]] = value
    (tmp_path / "a.json").write_text(json.dumps(content))
    with pytest.raises(BenchError, match=f"a.json: damaged: {re.escape(said)}"):
        read_report(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"version": 1}', f"version 1, and this program reads version {VERSION}"),
        ('{"version": 99}', "version 99"),
        ('{"version": "2"}', "version '2'"),
        ("[]", "not a results file"),
        ("{}", "not a results file"),
        ('{"version": 2, ', "damaged"),
        ("", "damaged"),
        ("\x00\xff", "damaged"),
        ("[" * 100_000, "damaged"),
    ],
)
def test_what_is_not_a_results_file_of_this_version_is_one_error(tmp_path, text, said):
    (tmp_path / "a.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(BenchError, match=said):
        read_report(tmp_path / "a.json")


def test_runs_are_comparable_only_where_they_measured_the_same(content):
    def changed(section, **values):
        other = unshared(content)
        other[section] = values.pop("whole", None) or other[section] | values
        return differences(other, content)

    assert differences(unshared(content), content) == []
    assert changed("card", chip="Apple M4", mlx="0.40") == []  # the machines are what is compared
    assert changed("model", name="./pocket") == []
    assert changed("config", max_tokens=32) == ["max_tokens 32, not 64"]
    assert changed("config", window="whole") == ["window whole, not None"]
    assert changed("prompts", whole=["other"]) == ["other prompts"]
    assert changed("model", dtype="bfloat16") == ["computed in bfloat16, not in float32"]
    assert changed("model", bits_per_weight=4.5) == ["4.50 bits a weight, not 32.00"]
    assert changed("model", weights="1" * 64) == ["other weights"]
    assert changed("model", random=True, weights=None) == ["other weights"]
    assert "2 layers" in changed("model", shape={"num_hidden_layers": 3})[0]


def test_decoders_are_matched_by_name(content):
    other = unshared(content)
    other["decoders"] = other["decoders"][2:]
    rows = dict(comparable_rows([Report("a", content), Report("b", other)]))
    assert [row is None for row in rows["reference"]] == [False, True]
    assert [row is None for row in rows["diffucode, balanced"]] == [False, False]


def test_pictures_are_drawn_as_png_and_svg_with_units_and_what_a_speed_took(content, tmp_path):
    pyplot = pytest.importorskip("matplotlib.pyplot", reason="matplotlib is not installed")
    from mlx_diffucoder.bench.pictures import draw

    reports = [Report("a", content), Report("b", content)]
    pyplot.switch_backend("Agg")
    with pyplot.rc_context({"svg.fonttype": "none"}):
        files = draw(reports, reports, tmp_path)
    assert sorted(file.name for file in files) == sorted(file.name for file in tmp_path.iterdir())
    assert {file.name for file in files} == {
        f"{name}.{kind}" for name in ("forwards", "speed", "step") for kind in ("png", "svg")
    }
    text = {file.stem: "".join(ElementTree.parse(file).getroot().itertext()) for file in files if file.suffix == ".svg"}
    assert "time of a forward, ms" in text["forwards"]
    assert "roofline" in text["forwards"]
    assert "useful tokens/s" in text["speed"]
    assert "NFE 3, 8 tokens/forward, 5 positions/token" in text["speed"]
    assert "20 ms a step" in text["step"]
    assert all((tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG") for name in text)
