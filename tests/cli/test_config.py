"""`diffucode config`, and the defaults that it sets."""

import json
import os
import stat
import tomllib
from typing import Annotated

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from mlx_diffucoder.cli.app import app
from mlx_diffucoder.cli.command import Command, Group
from mlx_diffucoder.cli.config import with_value
from mlx_diffucoder.cli.options import MaxTokens, Preset, Reference, Rule, Steps, Window, decoding_config
from mlx_diffucoder.cli.settings import Schema, Settings
from mlx_diffucoder.errors import SettingsError

from ..conftest import DATA
from .command import assert_one_line, diffucode

TINY = DATA / "dream-b"


@pytest.fixture
def file(tmp_path):
    return tmp_path / "settings" / "config.toml"


@pytest.fixture
def run(file):
    def run(*args, stdin="", **env):
        return diffucode(*args, stdin=stdin, env={"DIFFUCODE_CONFIG": str(file), **env})

    return run


def test_a_variable_that_sets_nothing_is_named_once_with_the_one_that_may_be_meant(run):
    wrong = {"DIFFUCODE_GENERATE_MAX_TOKEN": "3"}
    done = run("config", "list", **wrong)
    assert done.returncode == 0
    assert done.stderr == (
        "DIFFUCODE_GENERATE_MAX_TOKEN: no such variable; it has no effect; did you mean 'DIFFUCODE_GENERATE_MAX_TOKENS'?\n"
    )
    assert run("config", "list", "--quiet", **wrong).stderr == ""
    assert run("bench", "compare", "nowhere.json", **wrong).stderr.count("no such variable") == 1
    assert "config list --all" in run("config", "list", DIFFUCODE_ZZZ="1").stderr
    assert run("config", "list", DIFFUCODE_GENERATE_MAX_TOKENS="3", DIFFUCODE_DEBUG="1", DIFFUCODE_ZZZ="").stderr == ""


@pytest.fixture
def configured(file, monkeypatch):
    """The configuration that a verb called `generate` would run with, found without running it."""

    def configured(*args, **env):
        seen = []

        app = typer.Typer()

        @app.command(cls=Command)
        def generate(
            context: typer.Context,
            preset: Preset = None,
            rule: Rule = "auto",
            window: Window = "auto",
            steps: Steps = None,
            reference: Reference = False,
        ) -> None:
            seen.append(decoding_config(context))

        app.command()(lambda: None)
        command = typer.main.get_command(app)
        with monkeypatch.context() as patch:
            for name, value in {"DIFFUCODE_CONFIG": str(file), **env}.items():
                patch.setenv(name, value)
            settings = Settings.read(Schema(command))
        command(["generate", *args], standalone_mode=False, default_map=settings.default_map(), obj=settings)
        return seen[0]

    return configured


def test_flags_go_before_variables_and_variables_before_the_file(run):
    for setting in ("generate.max_tokens 5", "generate.temp 0.5", "generate.seed 1"):
        assert run("config", "set", *setting.split()).returncode == 0
    variables = {"DIFFUCODE_GENERATE_MAX_TOKENS": "4", "DIFFUCODE_GENERATE_TEMP": "0.25"}
    done = run("generate", "-m", TINY, "--json", "--max-tokens", "3", "hi", **variables)
    config = json.loads(done.stdout)["config"]
    assert (config["max_tokens"], config["temperature"], config["seed"]) == (3, 0.25, 1)


def test_the_model_for_all_verbs_can_be_set_and_a_verbs_own_goes_before_it(run, file):
    def model(**env):
        return json.loads(run("chat", "--max-tokens", "2", "--json", stdin="hi\n", **env).stdout)["model"]

    file.parent.mkdir()
    file.write_text(f'model = "{TINY}"\n')
    assert model() == str(TINY)
    file.write_text(f'model = "/no/such"\n[chat]\nmodel = "{TINY}"\n')
    assert model() == str(TINY)
    assert model(DIFFUCODE_MODEL=str(DATA / "dream-a")) == str(DATA / "dream-a")


def test_what_does_not_go_together_gives_way_to_what_is_said_nearer(configured, file):
    file.parent.mkdir()
    file.write_text('[generate]\nrule = "entropy-bound"\n')
    assert configured().rule.startswith("entropy-bound")
    assert configured("--window", "whole").rule.startswith("entropy-bound")
    assert configured("--steps", "1").rule == configured("--reference").rule == "schedule"
    assert configured("--preset", "exact").rule == "schedule"
    file.write_text('[generate]\nrule = "leftmost"\nwindow = "whole"\n')
    assert configured("--preset", "balanced").rule == "threshold:tau=0.95"
    assert configured(DIFFUCODE_GENERATE_PRESET="exact").rule == "schedule"
    assert configured("--window", "sliding").rule == "leftmost"
    assert configured("--steps", "2").rule == "schedule"
    file.write_text("[generate]\nsteps = 1\n")
    assert configured("--rule", "leftmost").steps is None
    assert configured("--steps", "3").steps == 3


def test_a_verb_with_verbs_below_it_has_defaults_too(file, monkeypatch):
    seen = []
    app, group = typer.Typer(), typer.Typer(cls=Group, invoke_without_command=True)

    @group.callback()
    def bench(context: typer.Context, max_tokens: MaxTokens = 256) -> None:
        if context.invoked_subcommand is None:
            seen.append(decoding_config(context).max_tokens)

    @group.command("compare", cls=Command)
    def compare_benches(limit: Annotated[int, typer.Option(min=1)] = 3) -> None:
        seen.append(limit)

    app.add_typer(group, name="bench")
    app.command()(lambda: None)
    command = typer.main.get_command(app)
    file.parent.mkdir()
    file.write_text("[bench]\nmax_tokens = 5\n[bench.compare]\nlimit = 7\n")
    monkeypatch.setenv("DIFFUCODE_CONFIG", str(file))
    settings = Settings.read(Schema(command))
    assert not settings.problems
    for words in (["bench"], ["bench", "compare"], ["bench", "compare", "--limit", "9"]):
        command(words, standalone_mode=False, default_map=settings.default_map(), obj=settings)
    assert seen == [5, 7, 9]  # a verb below it does its own work


def test_set_and_unset_leave_every_other_line_as_it_was(run, file):
    before = '\r\n# mine\nmodel = "pocket" # the small one\n\n[chat]\n  max-tokens=7\n\n# the end\n'
    file.parent.mkdir()
    file.write_bytes(before.encode())
    run("config", "set", "generate.top_k", "3")
    assert file.read_bytes().decode() == before + "\n[generate]\ntop_k = 3\n"
    run("config", "set", "chat.max_tokens", "8")
    assert "\n  max-tokens=8\n\n# the end\n" in file.read_text()
    run("config", "unset", "chat.max_tokens")
    run("config", "unset", "generate.top_k")
    assert file.read_bytes().decode() == '\r\n# mine\nmodel = "pocket" # the small one\n\n[chat]\n\n# the end\n\n[generate]\n'


def test_a_link_stays_a_link_and_a_mode_the_mode(run, file, tmp_path):
    real = tmp_path / "dotfiles.toml"
    real.write_text('model = "pocket"\n')
    real.chmod(0o644)
    file.parent.mkdir()
    file.symlink_to(real)
    run("config", "set", "model", "./mine")
    assert file.is_symlink()
    assert real.read_text() == 'model = "./mine"\n'
    assert stat.S_IMODE(real.stat().st_mode) == 0o644


def test_list_says_where_each_value_comes_from(run, file):
    run("config", "set", "generate.max_tokens", "5")
    run("config", "set", "compare.ratio", "0.5", "0.25")
    rows = json.loads(run("config", "list", "--json", DIFFUCODE_CHAT_TEMP="0.5", DIFFUCODE_MODEL="pocket").stdout)
    assert {key: (row["value"], row["from"]) for key, row in rows.items()} == {
        "model": ("pocket", "DIFFUCODE_MODEL"),
        "generate.max_tokens": (5, "file"),
        "chat.temp": (0.5, "DIFFUCODE_CHAT_TEMP"),
        "compare.ratio": ([0.5, 0.25], "file"),
    }
    assert "generate.top_p = 1.0  (default; a number)" in run("config", "list", "--all").stdout.splitlines()
    assert run("config", "get", "generate.max-tokens").stdout == "5\n"
    assert run("config", "get", "generate.top_p").stdout == "1.0\n"
    assert run("config", "path").stdout == f"{file}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[generate]\nmax_tokens = 'many'\n", ["generate.max_tokens", "a whole number", "'many'"]),
        ("[generate]\nmax_tokens = true\n", ["generate.max_tokens", "a whole number", "True"]),
        ("[generate]\nmax_tokens = 0\n", ["generate.max_tokens", "1 or more", "0"]),
        ("[generate]\ntop_p = nan\n", ["generate.top_p", "a number"]),
        ("[generate]\nrule = 'treshold'\n", ["generate.rule", "threshold:tau=0.9", "did you mean 'threshold'"]),
        ("[generate]\npreset = 'quick'\n", ["generate.preset", "balanced"]),
        ("[generate]\ndtype = 'flaot32'\n", ["generate.dtype", "did you mean 'float32'"]),
        ("[generate]\nmax_tokes = 5\n", ["generate.max_tokes", "no such key", "did you mean 'generate.max_tokens'"]),
        ("[genrate]\nmax_tokens = 5\n", ["genrate", "no such key", "did you mean 'generate'"]),
        ("generate = 5\n", ["generate", "is a table of keys"]),
        ("max_tokens = 5\n", ["max_tokens", "no such key"]),
        ("dtype = 'float32'\n", ["dtype", "no such key"]),  # convert means another thing by it
        ("[generate\n", ["not valid TOML", "line 1", "config edit"]),
    ],
)
def test_a_bad_file_names_itself_the_key_and_what_is_allowed(file, monkeypatch, text, said):
    file.parent.mkdir()
    file.write_text(text)
    monkeypatch.setenv("DIFFUCODE_CONFIG", str(file))
    settings = Settings.read(Schema(typer.main.get_command(app)))
    with pytest.raises(SettingsError) as raised:
        settings.check(("generate",))
    for words in (str(file), *said):
        assert words in str(raised.value)


def test_a_key_of_a_command_that_became_a_group_is_named_with_its_new_key(run, file):
    file.parent.mkdir()
    file.write_text("[bench]\ntrials = 3\n")
    assert_one_line(run("bench", "card"), f"{file}: bench.trials: no such key; it is now bench.run.trials")
    assert run("config", "unset", "bench.trials").returncode == 0
    assert_one_line(run("config", "set", "train.group", "4"), "train.group: no such key; it is now train.grpo.group", code=2)
    assert "it is now DIFFUCODE_BENCH_RUN_TRIALS" in run("config", "list", DIFFUCODE_BENCH_TRIALS="3").stderr


def test_with_a_bad_file_help_and_config_still_work(run, file):
    file.parent.mkdir()
    file.write_text("[generate]\nmax_tokens = 'many'\nseed = 1\n")
    assert_one_line(run("generate", "-m", TINY, "hi"), str(file), "generate.max_tokens", "'many'")
    assert run("generate", "--help").returncode == 0
    listed = run("config", "list")
    assert (listed.returncode, listed.stdout) == (1, "generate.seed = 1  (file)\n")
    assert "generate.max_tokens" in listed.stderr
    assert run("config", "set", "generate.max_tokens", "5").returncode == 0
    assert run("config", "list").returncode == 0


def test_what_another_verb_has_wrong_is_no_matter(file, monkeypatch):
    file.parent.mkdir()
    file.write_text("[eval]\nnum_samples = 'many'\n")
    monkeypatch.setenv("DIFFUCODE_CONFIG", str(file))
    settings = Settings.read(Schema(typer.main.get_command(app)))
    settings.check(("generate",))
    with pytest.raises(SettingsError, match=r"eval\.num_samples"):
        settings.check(("eval",))


def test_a_default_that_a_verb_refuses_is_blamed_where_it_stands(run, file):
    file.parent.mkdir()
    file.write_text("[bench.run]\nlayers = 2\n[generate]\nmax_tokens = 5000\n")
    assert_one_line(run("bench", "run", "-m", TINY), f"{file}: bench.run.layers: --layers needs --shape")
    assert_one_line(run("generate", "-m", TINY, "hi"), f"{file}: generate.max_tokens", "context is 2048")
    done = run("generate", "-m", TINY, "--max-tokens", "3000", "hi")
    assert_one_line(done, "--max-tokens 3000")
    assert str(file) not in done.stderr


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["set", "generate.max_tokens", "many"], ["generate.max_tokens", "a whole number"]),
        (["set", "generate.max_tokens", "5", "6"], ["generate.max_tokens", "a whole number"]),
        (["set", "bench.run.trials", "0"], ["bench.run.trials", "at least 1"]),
        (["set", "bench.trials", "3"], ["bench.trials: no such key; it is now bench.run.trials"]),
        (["set", "generate.top_p", "9" * 400], ["generate.top_p", "a number"]),
        (["set", "generate.json", "perhaps"], ["true or false"]),
        (["set", "eval.allow_code_execution", "true"], ["allow_code_execution", "command line"]),
        (["set", "config.all", "true"], ["config.all", "no such key"]),
        (["get", "generate.seed"], ["generate.seed", "not set"]),
        (["get", "nothing"], ["nothing", "no such key"]),
        (["unset", "generate.seed"], ["generate.seed", "not set"]),
        (["edit"], ["terminal"]),
    ],
    ids=lambda value: " ".join(value[:2]),
)
def test_what_cannot_be_done_is_one_line_and_changes_nothing(run, file, args, said):
    file.parent.mkdir()
    file.write_text("# mine\n")
    assert_one_line(run("config", *args), *said, code=2 if args[0] == "set" or "no such key" in said else 1)
    assert file.read_text() == "# mine\n"


def test_a_variable_that_cannot_work_is_named(run):
    variable = {"DIFFUCODE_GENERATE_TOP_P": "7"}
    assert_one_line(run("generate", "-m", TINY, "hi", **variable), "DIFFUCODE_GENERATE_TOP_P", "at most 1")


def test_a_key_is_changed_in_the_way_that_the_file_is_written(run, file):
    file.parent.mkdir()
    file.write_text("generate.max_tokens = 5 # mine\nchat = { max_tokens = 7, seed = 1 }\n")
    run("config", "set", "generate.max_tokens", "6")
    run("config", "unset", "chat.seed")
    assert file.read_text() == "generate.max_tokens = 6 # mine\nchat = { max_tokens = 7  }\n"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_named(run, file):
    file.parent.mkdir(mode=0o500)
    assert_one_line(run("config", "set", "model", "pocket"), str(file), "cannot be written")


VALUES = st.one_of(
    st.booleans(), st.integers(-(2**60), 2**60), st.floats(allow_nan=False, allow_infinity=False), st.text(), st.lists(st.text())
)


@given(st.dictionaries(st.sampled_from(["a", "b", "c_d"]), VALUES), st.sampled_from([(), ("t",), ("t", "u")]), VALUES)
def test_any_value_set_in_toml_reads_back_and_can_be_removed(existing, table, value):
    text = "# mine\n"
    for key, one in existing.items():
        text = with_value(text, ("t", key), one)
    changed = with_value(text, (*table, "b"), value)
    expected = {"t": dict(existing)} if existing else {}
    inner = expected
    for word in table:
        inner = inner.setdefault(word, {})
    inner["b"] = value
    assert tomllib.loads(changed) == expected
    assert changed.startswith("# mine\n")
    inner.pop("b")
    assert tomllib.loads(with_value(changed, (*table, "b"), None)) == expected
