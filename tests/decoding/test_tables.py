"""The table that the command line reads and the tables of classes have the same names, parameters and types."""

import inspect

import pytest

from mlx_diffucoder import GenerationConfig, choices
from mlx_diffucoder.decoding.rules import RULES, rule_for
from mlx_diffucoder.decoding.windows import WINDOWS, window_for


def test_both_tables_have_the_same_names():
    assert {"schedule", *RULES} == set(choices.RULES)
    assert set(WINDOWS) == set(choices.WINDOWS)


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [
        *((RULES[name], choices.RULES[name].parameters) for name in RULES),
        *((WINDOWS[name], choices.WINDOWS[name].parameters) for name in WINDOWS),
    ],
    ids=[*RULES, *WINDOWS],
)
def test_a_class_takes_the_parameters_of_its_line_in_the_table_and_their_types(kind, parameters):
    taken = {name: one.annotation for name, one in inspect.signature(kind).parameters.items() if one.default is one.empty}
    assert taken == {name: type(one.default) for name, one in parameters.items()}


@pytest.mark.parametrize("spec", choices.describe(choices.WINDOWS))
def test_a_window_prints_as_the_configuration_takes_it(spec):
    assert str(window_for(GenerationConfig(window=spec))) == spec


def test_the_schedule_takes_its_parameters_from_the_configuration():
    assert choices.RULES["schedule"].parameters == {}
    assert rule_for(GenerationConfig(rule="schedule", steps=7, eps=0.1)).steps == 7
