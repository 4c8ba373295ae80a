"""The study of ratios: turns, and the arithmetic of a ratio."""

from types import SimpleNamespace

from bench.studies.ratios import Contender, measure


def test_every_decoder_answers_every_prompt_in_each_round_and_the_order_changes():
    said = []
    every = {name: Contender(lambda number, name=name: said.append((name, number)), []) for name in "abc"}
    assert list(measure(every, prompts=4, rounds=2)) == [0, 1]
    rounds = said[4 + 2 + 2 :]  # the first decoder is warmed up on every prompt, the others on two
    assert len(rounds) == 2 * 4 * 3
    for start in range(0, len(rounds), 3):
        assert {name for name, _ in rounds[start : start + 3]} == set("abc")
        assert len({number for _, number in rounds[start : start + 3]}) == 1
    assert {rounds[start][0] for start in range(0, 12, 3)} == set("abc")
    assert all(len(one.seconds) == 2 for one in every.values())


def test_a_ratio_is_of_useful_tokens_a_second_in_the_same_round():
    run = {"nfe": 4, "positions": 40, "forwards": [(1, 60.0), (3, 30.0)]}
    first = Contender(None, [60], [1.0, 2.0], {0: SimpleNamespace(useful_tokens=20, **run)})
    other = Contender(None, [40], [2.0, 6.0], {0: SimpleNamespace(useful_tokens=10, **run)})
    row = other.to_dict(first)
    assert (row["ratio"]["low"], row["ratio"]["high"]) == (4.0, 6.0)  # twice the tokens, in a half and a third of the time
    assert row["tiles_per_useful_token"] == 0.4  # 1 tile for the 20 masks of the first forward, and 3
    assert first.to_dict(first)["ratio"]["median"] == 1
