"""`diffucode bench compare` as a user starts it."""

import json

import pytest

from ..bench.reports import made_report
from .command import assert_one_line, diffucode


@pytest.fixture
def files(tmp_path):
    content = made_report()
    for name, seed, chip in (("one", 0, "Abacus"), ("two", 0, "Slide Rule"), ("three", 1, "Abacus")):
        content["config"]["seed"], content["card"]["chip"] = seed, chip
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def test_machines_stand_side_by_side_with_units_in_80_columns(files):
    done = diffucode("bench", "compare", files / "one.json", files / "two.json")
    assert done.returncode == 0, done.stderr
    assert "one: Abacus (CPU), 17.2 GB" in done.stdout
    assert "two: Slide Rule (CPU)" in done.stdout
    for head in (
        "forward, ms",
        "step, ms",
        "useful tokens/s",
        "times mlx-lm's",
        "useful tokens/forward",
        "positions/useful token",
    ):
        assert any(line.split("  ")[0] == head and line.endswith("two") for line in done.stdout.splitlines()), head
    assert "NOT COMPARABLE" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_a_run_that_measured_something_else_is_named_and_only_its_forwards_are_shown(files):
    done = diffucode("bench", "compare", files / "one.json", files / "three.json")
    assert done.returncode == 0
    assert "NOT COMPARABLE: three did not measure what one did: seed 1, not 0" in done.stdout
    heads = {line.split("  ")[0]: line for line in done.stdout.splitlines()}
    assert heads["forward, ms"].endswith("three")
    assert heads["useful tokens/s"].endswith("one")
    said = json.loads(diffucode("bench", "compare", files / "one.json", files / "three.json", "--json").stdout)
    assert [report["differs"] for report in said["reports"]] == [[], ["seed 1, not 0"]]


def test_files_of_one_name_are_told_apart_by_their_folders(files):
    (files / "more").mkdir()
    (files / "more" / "one.json").write_text((files / "two.json").read_text())
    done = diffucode("bench", "compare", files / "one.json", files / "more" / "one.json")
    assert f"{files / 'more' / 'one.json'}: Slide Rule" in done.stdout


def test_what_cannot_be_compared_is_one_line_and_nothing_is_drawn(files):
    (files / "old.json").write_text('{"version": 1}')
    (files / "cut.json").write_text((files / "one.json").read_text()[:500])
    pictures = ("--pictures", files / "pictures")
    both = (files / "one.json", files / "old.json")
    assert_one_line(diffucode("bench", "compare", *both, *pictures), "old.json", "version 1")
    assert_one_line(diffucode("bench", "compare", files / "cut.json", *pictures), "cut.json", "damaged")
    assert_one_line(diffucode("bench", "compare", files / "none.json", *pictures), "none.json", "cannot be read")
    assert_one_line(diffucode("bench", "compare", files), str(files), "cannot be read")
    assert not (files / "pictures").exists()
    assert_one_line(diffucode("bench", "compare", files / "one.json", "--pictures", files / "no" / "where"), "--pictures")
    assert_one_line(diffucode("bench", "compare", files / "one.json", "--pictures", files / "one.json"), "--pictures")
    assert_one_line(diffucode("bench", "compare"), "files", code=2)
    assert_one_line(diffucode("bench", "contrast"), "contrast", code=2)


def test_its_help_is_under_that_of_bench():
    assert "compare" in diffucode("bench", "--help").stdout
    assert "--pictures" in diffucode("bench", "compare", "--help").stdout
