"""How to decode on this machine: how it is chosen, and where what is stored is used."""

import json
import os
from dataclasses import replace

import pytest

from mlx_diffucoder import GenerationConfig
from mlx_diffucoder.bench import profiles
from mlx_diffucoder.bench.chip import Card
from mlx_diffucoder.bench.decoders import Run, denoised
from mlx_diffucoder.bench.profiles import Profile, find, machine_of, path_of, save
from mlx_diffucoder.bench.subjects import Subject
from mlx_diffucoder.bench.timing import Timing
from mlx_diffucoder.bench.tuning import (
    GAIN,
    LOOSER,
    OWN_ROWS,
    PRESET,
    SETTINGS,
    Point,
    choose,
    compared,
    default_prompts,
    own_point,
    points,
    seconds_of,
)
from mlx_diffucoder.checkpoint import weights_digest
from mlx_diffucoder.cli.model_option import with_tuned
from mlx_diffucoder.config import PRESETS
from mlx_diffucoder.errors import BenchError

PROMPT = [754, 64, 82, 374, 83, 198]
CARD = Card(chip="Abacus", backend="CPU", gpu_cores=None, memory_bytes=2**34, system="Linux 6", mlx="0.32")
OWN = PRESETS[PRESET]
OTHER = {"rule": "leftmost", "window": "tree:rows=64"}


def took(seconds):
    return Timing(seconds, seconds, 9 * seconds, 3)


def run(*forwards):
    return Run(seconds=1, first=1, nfe=1, positions=1, useful_tokens=1, forwards=list(forwards), peak_memory_bytes=1)


def point(rows, seconds, same=9, rule=OWN["rule"], tokens=10):
    cost = {"nfe": 1, "positions": 1, "useful_tokens": tokens, "seconds": seconds}
    return Point(rows=rows, rule=rule, window=f"tree:rows={rows}", same=same, **cost)


def test_forwards_are_given_the_curves_least_times_between_its_widths_and_beyond():
    curve = {1: took(1.0), 11: took(2.0), 21: took(4.0)}
    assert seconds_of([run((3, 11))], curve) == pytest.approx(6)
    assert seconds_of([run((1, 6)), run((2, 16))], curve) == pytest.approx(1.5 + 2 * 3)
    assert seconds_of([run((1, 31))], curve) == pytest.approx(6)
    assert seconds_of([run((1, 11))], {1: took(3.0), 11: took(2.0), 21: took(4.0)}) == pytest.approx(3)  # never less than fewer


def test_another_setting_is_chosen_only_where_it_saves_enough():
    own = point(32, 10.0)
    assert choose([point(8, 10.0 * (1 - GAIN) + 0.01), own, point(64, 12.0)]) is own
    faster = point(8, 10.0 * (1 - GAIN) - 0.01)
    assert choose([faster, own]) is faster
    assert choose([point(8, 1.0, tokens=0), own]) is own
    more = point(64, 11.0, tokens=20)
    assert choose([own, more]) is more  # seconds of a token, not of an answer


def test_no_setting_is_chosen_that_changes_more_texts_than_the_presets_rows_need():
    own, strict = point(32, 10.0), point(32, 10.5, rule="leftmost")
    assert choose([point(8, 1.0, same=8), own, strict]) is own
    assert choose([point(32, 1.0, rule=LOOSER), own, strict]) is own
    better = replace(strict, same=10)  # slower, and the preset's rule changes a text that it keeps
    assert choose([point(8, 1.0), own, better]) is better


def test_few_rows_and_low_thresholds_commit_only_what_was_verified():
    assert {rows: rules for rows, rules in SETTINGS.items() if rows < OWN_ROWS} == {8: ("leftmost",)}
    assert OWN["window"] == f"tree:rows={OWN_ROWS}"
    assert OWN["rule"] in SETTINGS[OWN_ROWS]


def test_the_points_are_those_of_the_decoder_at_each_setting(dream_b):
    subject = Subject("dream-b", *dream_b, random=False)
    config = GenerationConfig(max_tokens=8, seed=0)
    plain = [denoised(subject, PROMPT, replace(config, rule="leftmost", window="tree:rows=32"), None).answer]
    free, paid = {1: took(1.0), 200: took(1.0)}, {1: took(1.0), 201: took(201.0)}  # by the forward; by the position
    found = list(points(subject, [PROMPT], plain, config, free))
    assert [(one.rows, one.rule) for one in found] == [(rows, rule) for rows, rules in SETTINGS.items() for rule in rules]
    assert all(one.seconds == pytest.approx(one.nfe) for one in found)
    assert next(one.same for one in found if (one.rows, one.rule) == (32, "leftmost")) == 1
    assert own_point(found).rows == 32
    for one in points(subject, [PROMPT], [[]], config, paid):
        assert one.seconds == pytest.approx(one.positions)
        assert one.same == 0


def test_answers_of_two_orders_are_compared_by_what_the_model_gives_each(dream_b):
    subject = Subject("dream-b", *dream_b, random=False)
    orders = compared(subject, [PROMPT] * 3, [[5, 6], [7], []], [[5, 6], [8], [9, 9]])
    assert (orders.prompts, orders.same) == (3, 1)
    assert orders.left_to_right < 0 > orders.confidence
    both = compared(subject, [PROMPT] * 2, [[7], [8]], [[8], [7]])
    assert both.likelier == 1  # one of the two is more probable, whichever order wrote it
    assert both.left_to_right == pytest.approx(both.confidence)


def test_the_default_prompts_are_texts():
    assert len(default_prompts()) == 12
    assert all(" " in prompt for prompt in default_prompts())


@pytest.fixture
def stored(tmp_path, monkeypatch, dream_b):
    """The profile of `dream-b` on a machine, stored; and its file."""
    monkeypatch.setenv(profiles.FOLDER, str(tmp_path))
    monkeypatch.setattr("mlx_diffucoder.bench.chip.read_card", lambda: CARD)
    profile = Profile(
        machine=machine_of(CARD),
        model="dream-b",
        weights=weights_digest(dream_b[0]),
        decoding={PRESET: OTHER},
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
        ('{"version": 3}', "damaged"),
        ('{"version": 2, "windows": {"balanced": "tree:rows=8"}}', "of version 2, and this program reads version 3"),
        ("{}", "damaged"),
        ("\x00\xff", "damaged"),
    ],
)
def test_a_damaged_profile_is_named_in_a_note_and_not_used(stored, dream_b, capsys, text, said):
    _, file = stored
    file.write_bytes(text.encode("latin-1"))
    config = GenerationConfig()
    assert with_tuned(config, dream_b[0], wanted=True, verbose=False) == config
    (line,) = capsys.readouterr().err.splitlines()
    assert str(file) in line
    assert said in line


@pytest.mark.parametrize(
    "own",
    [
        {"window": "tree:rows=8"},
        *({"rule": OWN["rule"], "window": window} for window in ("whole", "tree:rows=1", "tree:rows=many", "nonsense", 5)),
        {"rule": "schedule", "window": "tree:rows=8"},
        {"rule": 3, "window": "tree:rows=8"},
        "tree:rows=8",
    ],
    ids=str,
)
@pytest.mark.parametrize("preset", ["balanced", "nonsense"])
def test_a_profile_with_a_setting_that_cannot_be_is_damaged(stored, own, preset):
    profile, file = stored
    file.write_text(json.dumps({**json.loads(file.read_text()), "decoding": {preset: own}}))
    with pytest.raises(BenchError, match="damaged"):
        find(profile.weights, lambda: CARD)


def test_what_was_tuned_takes_the_place_of_its_presets_own_and_of_no_other(stored, dream_b):
    def decoding(wanted=True, **fields):
        config = with_tuned(GenerationConfig(**fields), dream_b[0], wanted=wanted, verbose=False)
        return {"rule": config.rule, "window": config.window}

    assert decoding() == OTHER
    assert decoding(max_tokens=9, top_p=0.9, temperature=0.5) == OTHER
    assert decoding(wanted=False) == OWN
    assert decoding(window="sliding:width=25,suffix=4")["window"] == "sliding:width=25,suffix=4"
    assert decoding(rule="entropy-bound") == {**OWN, "rule": "entropy-bound"}
    for scheduled in ({"steps": 4}, {"reference": True}, dict(PRESETS["exact"])):
        assert decoding(**scheduled)["window"] == "whole"


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
