"""The window's width from the chip: how it is chosen, and where a stored one is used."""

import json
import os
from dataclasses import replace

import pytest

from mlx_diffucoder import GenerationConfig
from mlx_diffucoder.bench import profiles
from mlx_diffucoder.bench.chip import Card
from mlx_diffucoder.bench.decoders import Run
from mlx_diffucoder.bench.profiles import Profile, find, machine_of, path_of, save
from mlx_diffucoder.bench.subjects import Subject
from mlx_diffucoder.bench.timing import Timing
from mlx_diffucoder.bench.tuning import GAIN, ROWS, TUNED, Point, choose, points, seconds_of
from mlx_diffucoder.checkpoint import weights_digest
from mlx_diffucoder.cli.model_option import with_tuned_window
from mlx_diffucoder.config import PRESETS
from mlx_diffucoder.errors import BenchError

PROMPT = [754, 64, 82, 374, 83, 198]
CARD = Card(chip="Abacus", backend="CPU", gpu_cores=None, memory_bytes=2**34, system="Linux 6", mlx="0.32")
OTHER = "tree:rows=64"


def took(seconds):
    return Timing(seconds, seconds, 9 * seconds, 3)


def run(*forwards):
    return Run(seconds=1, first=1, nfe=1, positions=1, useful_tokens=1, forwards=list(forwards), peak_memory_bytes=1)


def point(rows, seconds, tokens=10):
    return Point(rows=rows, window=f"tree:rows={rows}", nfe=1, positions=1, useful_tokens=tokens, seconds=seconds)


def test_forwards_are_given_the_curves_least_times_between_its_widths_and_beyond():
    curve = {1: took(1.0), 11: took(2.0), 21: took(4.0)}
    assert seconds_of([run((3, 11))], curve) == pytest.approx(6)
    assert seconds_of([run((1, 6)), run((2, 16))], curve) == pytest.approx(1.5 + 2 * 3)
    assert seconds_of([run((1, 31))], curve) == pytest.approx(6)
    assert seconds_of([run((1, 11))], {1: took(3.0), 11: took(2.0), 21: took(4.0)}) == pytest.approx(3)  # never less than fewer


def test_another_width_is_chosen_only_where_it_saves_enough():
    own = point(32, 10.0)
    assert choose("balanced", [point(8, 10.0 * (1 - GAIN) + 0.01), own, point(64, 12.0)]) is own
    faster = point(8, 10.0 * (1 - GAIN) - 0.01)
    assert choose("balanced", [faster, own]) is faster
    assert choose("balanced", [point(8, 1.0, tokens=0), own]) is own
    more = point(64, 11.0, tokens=20)
    assert choose("balanced", [own, more]) is more  # seconds of a token, not of an answer


def test_every_preset_with_rows_is_tuned_and_no_other():
    assert set(TUNED) == {"balanced"}


def test_the_points_are_those_of_the_decoder_at_each_budget(dream_b):
    subject = Subject("dream-b", *dream_b, random=False)
    config = GenerationConfig(max_tokens=20, seed=0)
    free, paid = {1: took(1.0), 200: took(1.0)}, {1: took(1.0), 201: took(201.0)}  # by the forward; by the position
    found = list(points(subject, [PROMPT], config, "balanced", free))
    assert [one.rows for one in found] == list(ROWS)
    assert all(one.seconds == pytest.approx(one.nfe) for one in found)
    for one in points(subject, [PROMPT], config, "balanced", paid):
        assert one.seconds == pytest.approx(one.positions)


@pytest.fixture
def stored(tmp_path, monkeypatch, dream_b):
    """The profile of `dream-b` on a machine, stored; and its file."""
    monkeypatch.setenv(profiles.FOLDER, str(tmp_path))
    monkeypatch.setattr("mlx_diffucoder.bench.chip.read_card", lambda: CARD)
    profile = Profile(
        machine=machine_of(CARD),
        model="dream-b",
        weights=weights_digest(dream_b[0]),
        windows={"balanced": OTHER},
        made="2030-01-01T00:00:00+00:00",
        measured={},
    )
    return profile, save(profile)


def test_a_profile_is_found_for_its_model_and_machine(stored, dream_a, dream_b):
    profile, file = stored
    assert find(profile.weights, lambda: CARD) == profile
    assert find(weights_digest(dream_a[0]), lambda: CARD) is None
    for other in ({"chip": "Slide Rule"}, {"gpu_cores": 40}, {"memory_bytes": 1}, {"backend": "Metal"}):
        assert find(profile.weights, lambda other=other: replace(CARD, **other)) is None
    assert find(profile.weights, lambda: replace(CARD, power="Battery Power", mlx="1")) == profile
    assert [one.name for one in file.parent.iterdir()] == [file.name]


def test_a_profile_of_another_model_or_machine_is_refused_whatever_its_file_is_called(stored):
    profile, file = stored
    content = json.loads(file.read_text())
    other = profile.weights[:16] + "0" * 48
    file.write_text(json.dumps({**content, "weights": other, "model": "another one"}))
    with pytest.raises(BenchError, match="tuned for another model, 'another one'; not used"):
        find(profile.weights, lambda: CARD)
    file.rename(path_of(profile.weights, machine_of(replace(CARD, chip="Slide Rule"))))
    path_of(profile.weights, machine_of(replace(CARD, chip="Slide Rule"))).write_text(json.dumps(content))
    with pytest.raises(BenchError, match="tuned on another machine, 'Abacus'; not used"):
        find(profile.weights, lambda: replace(CARD, chip="Slide Rule"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "damaged"),
        ("[1]", "damaged"),
        ('{"version": 2}', "damaged"),
        ('{"version": 1}', "of version 1, and this program reads version 2"),
        ("{}", "damaged"),
        ("\x00\xff", "damaged"),
    ],
)
def test_a_damaged_profile_is_named_in_a_note_and_not_used(stored, dream_b, capsys, text, said):
    _, file = stored
    file.write_bytes(text.encode("latin-1"))
    config = GenerationConfig()
    assert with_tuned_window(config, dream_b[0], wanted=True, verbose=False) == config
    (line,) = capsys.readouterr().err.splitlines()
    assert str(file) in line
    assert said in line


@pytest.mark.parametrize("window", ["whole", "tree:rows=1", "tree:rows=many", "nonsense", 5])
@pytest.mark.parametrize("preset", ["balanced", "exact"])
def test_a_profile_with_a_window_that_cannot_be_is_damaged(stored, window, preset):
    profile, file = stored
    file.write_text(json.dumps({**json.loads(file.read_text()), "windows": {preset: window}}))
    with pytest.raises(BenchError, match="damaged"):
        find(profile.weights, lambda: CARD)


def test_the_tuned_window_takes_the_place_of_its_presets_own_and_of_no_other(stored, dream_b):
    def window(wanted=True, **fields):
        return with_tuned_window(GenerationConfig(**fields), dream_b[0], wanted=wanted, verbose=False).window

    own = PRESETS["balanced"]["window"]
    assert window() == OTHER
    assert window(max_tokens=9, top_p=0.9, temperature=0.5) == OTHER
    assert window(wanted=False) == own
    assert window(window="sliding:width=25,suffix=4") == "sliding:width=25,suffix=4"
    assert window(rule="factor") == own
    assert window(rule="backtrack").startswith("sliding")
    for scheduled in ({"steps": 4}, {"reference": True}, dict(PRESETS["exact"])):
        assert window(**scheduled) == "whole"


def test_a_folder_that_cannot_be_written_is_one_error(tmp_path, monkeypatch, stored):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(profiles.FOLDER, str(tmp_path / "file" / "under"))
    with pytest.raises(BenchError, match=f"cannot be stored there .*{profiles.FOLDER}"):
        save(stored[0])
    assert find(stored[0].weights, lambda: CARD) is None
    monkeypatch.setenv(profiles.FOLDER, str(tmp_path))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(BenchError, match="permission denied"):
        save(stored[0])


def test_profiles_are_stored_among_the_users_own_data(monkeypatch):
    monkeypatch.delenv(profiles.FOLDER, raising=False)
    assert profiles.folder().name == "tuned"
    assert profiles.folder().parent.name == "diffucode"
