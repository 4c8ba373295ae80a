"""What every command has."""

import os
import pty
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import typer

from mlx_diffucoder.cli.app import app
from mlx_diffucoder.cli.command import commands_of, examples_of, options_of
from mlx_diffucoder.errors import ConfigError

from ..conftest import DATA
from .command import COMMAND, assert_one_line, diffucode, environment

ROOT = Path(__file__).parents[2]
TINY = DATA / "dream-b"
COMMANDS = list(commands_of(typer.main.get_command(app)))
NAMES = [" ".join(words) for words, _ in COMMANDS]
EXAMPLES = [(words, example) for words, command in COMMANDS for example in examples_of(command)]
PLAIN = {"COLUMNS": "200", "TERM": "dumb", "NO_COLOR": "1"}


@cache
def helps():
    """The help of every verb, all from one process, for starting one takes longer than that."""
    script = "import sys\nfrom mlx_diffucoder.cli import app\nfor number, verb in enumerate(sys.argv[1:]):\n"
    script += "    if number: print('\\f')\n    sys.argv = ['diffucode', *verb.split(), '--help']\n"
    script += "    app._run() if number == 0 else app.app(standalone_mode=False)\n"
    command = [sys.executable, "-c", script, *NAMES]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment(**PLAIN))
    return dict(zip(NAMES, done.stdout.split("\f\n"), strict=True))


def test_the_verbs_are_those_of_the_help():
    shown = re.findall(r"^│ (\w+)  ", diffucode("--help", env=PLAIN).stdout.split("Commands")[1], re.M)
    assert list(dict.fromkeys(words[0] for words, _ in COMMANDS)) == shown


@pytest.mark.parametrize("verb", NAMES)
def test_every_verb_shows_an_example_in_its_help(verb):
    shown = helps()[verb]
    assert re.search(r"^ Examples?:", shown, re.M)
    for words, example in EXAMPLES:
        if " ".join(words) == verb:
            assert f" {example} " in shown


@pytest.mark.parametrize(("verb", "example"), EXAMPLES, ids=[example for _, example in EXAMPLES])
def test_examples_are_commands_that_the_program_understands(verb, example):
    assert len(example) <= 78, "it would be broken in two at 80 columns, and could not be copied"
    words = shlex.split(example)
    words = words[words.index("diffucode") + 1 :]
    words = words[: next((i for i, word in enumerate(words) if word in ("|", "<", ">")), len(words))]
    assert tuple(words[: len(verb)]) == verb
    command = typer.main.get_command(app)
    context = command.make_context("diffucode", [*verb])
    for word in verb:
        command = command.get_command(context, word)
        if word != verb[-1]:
            context = command.make_context(word, list(verb[1:]), parent=context)
    command.make_context(verb[-1], words[len(verb) :], parent=context)  # raises what a wrong usage raises


@pytest.mark.parametrize("example", [one for _, one in EXAMPLES if re.match("diffucode (generate|config (path|list|get))", one)])
def test_cheap_examples_run(example, tmp_path):
    done = diffucode(*shlex.split(example.partition(" |")[0])[1:], env={"DIFFUCODE_CONFIG": str(tmp_path / "config.toml")})
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout or example.endswith("config list")


def test_exit_codes_are_in_the_help_and_in_the_readme():
    shown = " ".join(diffucode("--help", env=PLAIN).stdout.split())
    readme = (ROOT / "README.md").read_text()
    for code in ("0 done", "1 failed", "2 wrong usage", "130 stopped by Ctrl-C", "143 the same by SIGTERM", "141 "):
        assert code in shown
        assert code in readme


def test_quiet_keeps_everything_but_errors_from_stderr():
    answer = diffucode("generate", "-m", TINY, "--max-tokens", "4", "-v", "hi")
    quiet = diffucode("generate", "-m", TINY, "--max-tokens", "4", "-v", "-q", "hi")
    assert answer.stderr
    assert (quiet.stdout, quiet.stderr, quiet.returncode) == (answer.stdout, "", 0)
    assert_one_line(diffucode("generate", "-q", "-m", "./nowhere", "hi"), "./nowhere")
    assert_one_line(diffucode("chat", "-q", "-m", TINY, stdin="/nothing"), "/nothing")
    assert_one_line(diffucode("generate", "-q", "--nope", "hi"), "--nope", code=2)


def test_every_verb_can_be_quiet_and_convert_keeps_its_q(tmp_path):
    assert "--quiet" in diffucode("convert", "--help").stdout
    done = diffucode("convert", "pocket", tmp_path / "out", "-q", "--quiet")
    assert (done.returncode, done.stderr) == (0, "")
    assert '"bits": 4' in (tmp_path / "out" / "config.json").read_text()


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["gnerate", "hi"], "Did you mean 'generate'?"),
        (["config", "lst"], "Did you mean 'list'"),
        (["generate", "--max-token", "5"], "--max-tokens"),
    ],
)
def test_wrong_usage_says_what_was_meant(args, said):
    assert_one_line(diffucode(*args), said, code=2)


@pytest.mark.parametrize(
    ("args", "meant"),
    [
        (["-m", "pockt"], "'pocket'"),
        (["-m", "pocket", "--rule", "treshold:tau=0.8"], "'threshold'"),
        (["-m", "pocket", "--window", "slidng"], "'sliding'"),
        (["-m", "pocket", "--preset", "blanced"], "'balanced'"),
        (["-m", "pocket", "--alg", "entropie"], "'entropy'"),
        (["-m", "someone/not-here", "--yes", "--dtype", "flaot16"], "'float16'"),  # before anything is downloaded
    ],
)
def test_a_mistyped_name_says_what_was_meant(args, meant):
    assert_one_line(diffucode("generate", *args, "hi"), f"did you mean {meant}?", code=1 if "pockt" in args else 2)


def unread(*args, stdin=None):
    """Run the command with a stdout that nobody reads: its exit code and what it said on stderr."""
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [COMMAND, *map(str, args)], stdout=writing, stderr=subprocess.PIPE, input=stdin or b"", env=environment(), timeout=120
    )
    os.close(writing)
    return done.returncode, done.stderr.decode()


@pytest.mark.parametrize(
    "args",
    [
        ("--version",),
        ("generate", "--help"),
        ("generate", "-m", TINY, "--max-tokens", "4", "hi"),
        ("convert", DATA / "dream-a", "nowhere", "-q", "--dry-run"),
        ("bench", "predict", "M4 Max"),
        ("config", "list", "--all"),
    ],
    ids=lambda args: " ".join(map(str, args[:2])),
)
def test_a_pipe_that_nobody_reads_is_no_error_message(args):
    assert unread(*args) == (141, "")


def test_a_chat_that_nobody_reads_ends_quietly():
    assert unread("chat", "-m", TINY, "--max-tokens", "4", stdin=b"one\ntwo\n") == (141, "")


@pytest.mark.parametrize("args", [("generate", "--help"), ("generate", "-m", TINY, "--max-tokens", "4", "hi")])
@pytest.mark.parametrize("env", [{"TERM": "dumb"}, {"NO_COLOR": "1", "TERM": "xterm-256color"}], ids=["dumb", "no color"])
def test_no_colour_where_none_is_wanted(args, env):
    master, slave = pty.openpty()
    process = subprocess.Popen([COMMAND, *map(str, args)], stdin=slave, stdout=slave, stderr=slave, env=environment(**env))
    os.close(slave)
    shown = b""
    while True:
        try:
            chunk = os.read(master, 4096)
        except OSError:
            break
        if not chunk:
            break
        shown += chunk
    process.wait()
    os.close(master)
    assert shown
    if env["TERM"] == "dumb":
        assert b"\x1b" not in shown
    assert not re.search(rb"\x1b\[[0-9;]*3[0-7][0-9;]*m", shown)


def complete(shell, *words):
    """What a shell is offered behind `diffucode WORDS`, the last of them begun."""
    line = " ".join(["diffucode", *words])
    env = {"_DIFFUCODE_COMPLETE": f"complete_{shell}", "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    env |= {"COMP_WORDS": line, "COMP_CWORD": str(len(words))} if shell == "bash" else {"_TYPER_COMPLETE_ARGS": line}
    return diffucode(env=env).stdout


@pytest.mark.parametrize(
    ("words", "offered", "not_offered"),
    [
        (["gen"], "generate", "convert"),
        (["generate", "--max"], "--max-tokens", "--model"),
        (["generate", "--rule", "t"], "threshold", "schedule"),
        (["chat", "--window", "s"], "sliding", "whole"),
        (["eval", "--preset", "b"], "balanced", "exact"),
        (["bench", "run", "--alg", "t"], "topk_margin", "entropy"),
        (["generate", "--dtype", "f"], "float16", "bfloat16"),
        (["convert", "p"], "pocket", "mlx-community"),
        (["config", "set", "chat.max"], "chat.max_tokens", "generate.max_tokens"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_values_are_completed(words, offered, not_offered):
    found = complete("bash", *words).split()
    assert offered in found
    assert not_offered not in found


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_other_shells_are_offered_the_same(shell):
    assert "threshold" in complete(shell, "generate", "--rule", "t")


def test_models_in_the_hubs_cache_are_completed_and_suggested(tmp_path):
    for repo, kind in (("someone/dream-b", "Dream"), ("someone/dreary", "llama")):
        folder = tmp_path / "hub" / f"models--{repo.replace('/', '--')}" / "snapshots" / "abc"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(f'{{"model_type": "{kind}"}}')
    env = {"HF_HOME": str(tmp_path), "_DIFFUCODE_COMPLETE": "complete_bash", "COMP_CWORD": "3"}
    assert diffucode(env={**env, "COMP_WORDS": "diffucode generate -m some"}).stdout.split() == ["someone/dream-b"]
    done = diffucode("generate", "-m", "./someone/dream-c", "hi", env={"HF_HOME": str(tmp_path)})
    assert_one_line(done, "did you mean 'someone/dream-b'?")


def test_a_flag_is_known_by_both_of_its_halves():
    options = {option.key: option for option in options_of(dict(COMMANDS)["compare",])}
    assert options["by_layer"].names == ("--by-layer", "--whole")
    assert (options["ratio"].kind, options["ratio"].many) == (float, True)


@pytest.mark.parametrize(
    ("words", "option", "needed"),
    [
        ("generate --sandbox off hi", "--sandbox", "--tests"),
        ("generate --rank hi", "--rank", "-n 2 or more"),
        ("generate --tile 8 hi", "--tile", "-v or --json"),
        ("infill a.py --tile 8", "--tile", "-v or --json"),
        ("infill a.py --backup .old", "--backup", "--write"),
        ("compare pocket a --sandbox off", "--sandbox", "--tasks"),
        ("compare pocket a --max-tokens 8", "--max-tokens", "--tasks"),
        ("compare pocket a --preset exact", "--preset", "--tasks"),
        ("train --data a --out b --patience 2", "--patience", "--valid"),
        ("train --data a --out b --tune full --rank 2", "--rank", "--tune lora or dora"),
        ("train --data a --out b --from-scratch c --tokenizer d -m e", "--model", "a trained model"),
        ("train grpo --data a --out b --allow-code-execution --eval-every 2", "--eval-every", "--valid"),
    ],
)
def test_an_option_without_effect_is_refused_before_anything_is_read(words, option, needed):
    with pytest.raises(ConfigError, match=f"^{option} has no effect without {needed}; add it, or remove {option}$"):
        typer.main.get_command(app).main(words.split(), standalone_mode=False)
