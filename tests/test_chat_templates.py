"""Chat templates see what transformers gives them, and end within limits of time and memory."""

import os
import resource
import signal
import time

import pytest

from mlx_diffucoder import Tokenizer, chat_template
from mlx_diffucoder.errors import CheckpointError

from .conftest import DATA

CHAT = "{% for m in messages %}{{ m.role ~ ': ' ~ m['content'] }}\n{% endfor %}"
MESSAGES = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": 'Füge "x" an'},
    {"role": "assistant", "content": " x\n"},
    {"role": "user", "content": "<b>"},
]
TOKENS = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
TEMPLATES = {
    "tools": "{{ tools is none }} {{ documents is none }} {{ tools is defined }}" + CHAT,
    "not given": "{{ xml_tools is defined }}{{ enable_thinking is not defined or enable_thinking }}{{ custom }}",
    "tokens": "".join(f"{name}={{{{ {name} }}}},{{{{ {name} is defined }}}} " for name in TOKENS),
    "year": "{{ strftime_now('%Y') }}",
    "generation": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}"
    "{% endgeneration %}{% else %}{{ m.content }}{% endif %}{% endfor %}",
    "generation with white space": "{%- for m in messages -%}\n  {%- generation -%}\n  {{ m.content }}\n"
    "  {% set x = 1 %}{%- endgeneration -%}\n{{ x }}{%- endfor -%}",
    "json": "{{ messages | tojson }} {{ messages | tojson(indent=2) }}{{ messages | tojson(ensure_ascii=true, sort_keys=true) }}",
    "loop controls": "{% for m in messages %}{% if loop.index0 == 1 %}{% continue %}{% endif %}{{ m.role }}"
    "{% if loop.index == 3 %}{% break %}{% endif %}{% endfor %}",
    "namespace": "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
    "blocks": "  {% if add_generation_prompt %}\n  yes\n  {% endif %}\n" + CHAT,
    "text": "{{ messages[-1].content | trim | upper }}{{ messages[0].get('name', '-') }}{{ messages[1:] | length }}",
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_gives_what_transformers_makes_of_it(name):
    transformers = pytest.importorskip("transformers")
    folder = DATA / "pocket-1"
    ours = Tokenizer.load(folder)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    expected = theirs.apply_chat_template(MESSAGES, chat_template=TEMPLATES[name], tokenize=False, add_generation_prompt=True)
    ours.chat_template = TEMPLATES[name]
    assert ours._render([[dict(message) for message in MESSAGES]]) == [expected]


def test_tokens_are_those_of_either_file(broken, edit_json):
    edit_json(broken / "tokenizer_config.json", pad_token=None, unk_token={"content": "<|mask|>", "special": True})
    (broken / "chat_template.jinja").write_text("{{ pad_token }}{{ unk_token }}{{ model_max_length }}{{ add_bos_token }}")
    tokenizer = Tokenizer.load(broken)
    assert tokenizer.encode_chat("hi") == [tokenizer.pad_id, tokenizer.mask_id]


def test_a_template_that_refuses_says_why(broken):
    (broken / "chat_template.jinja").write_text("{{ raise_exception('roles must alternate') }}")
    with pytest.raises(CheckpointError, match=r"template fails \(roles must alternate\): use --raw"):
        Tokenizer.load(broken).encode_chat("hi")


LOOP = "{% for a in range(99999) %}{% for b in range(99999) %}%s{% endfor %}{% endfor %}"
ABSURD = {
    "loop": LOOP.replace("%s", ""),
    "loop that sets": LOOP.replace("%s", "{% set x = a * b %}"),
    "loop that writes": LOOP.replace("%s", "text"),
    "product": "{{ 'a' * 10 ** 12 }}",
    "list": "{{ [0] * 10 ** 11 }}",
    "power": "{{ 9 ** (9 ** 9) }}",
    "doubling": "{% set n = namespace(x='a') %}{% for i in range(99) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
    "width": "{{ 'a'.center(10 ** 11) }}",
    "format": "{{ '%99999999999d' % 1 }}",
    "format of a method": "{{ '{:99999999999}'.format(1) }}",
    "filter": "{{ 'a' | center(10 ** 11) }}",
    "indent": "{{ messages | tojson(indent=10 ** 10) }}",
    "filler": "{{ lipsum(n=10 ** 9) }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "nesting": "{{ " + "(" * 9999 + "1" + ")" * 9999 + " }}",
    "replacement": "{% set x = 'a' * 10 ** 5 %}{{ x.replace('a', x) }}",
    "large": "{{ 'a' * 10 ** 8 }}",
}


ALIKE = ("loop that sets", "filler", "power")
"""They take all of their time, as `loop` does."""


@pytest.mark.parametrize("name", [pytest.param(name, marks=[pytest.mark.slow] * (name in ALIKE)) for name in ABSURD])
def test_a_template_without_end_is_ended(broken, name):
    (broken / "chat_template.jinja").write_text(ABSURD[name])
    tokenizer = Tokenizer.load(broken)
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(CheckpointError, match=r"chat template fails .*: use --raw") as refused:
        tokenizer.encode_chat("hi")
    assert "\n" not in str(refused.value)
    assert time.process_time() - started < 1  # the other process works
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
    assert Tokenizer.load(DATA / "dream-a").encode_chat("hi")  # the next chat is rendered all the same


def test_a_chat_after_an_interrupted_one_gets_its_own_text(broken):
    (broken / "chat_template.jinja").write_text(ABSURD["loop"])
    signal.signal(signal.SIGALRM, signal.default_int_handler)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    with pytest.raises(KeyboardInterrupt):
        Tokenizer.load(broken).encode_chat("hi")
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    tokenizer = Tokenizer.load(DATA / "dream-a")
    assert "hi" in tokenizer.decode(tokenizer.encode_chat("hi"))


def test_one_process_renders_all_chats_and_a_killed_one_is_replaced():
    tokenizer = Tokenizer.load(DATA / "dream-a")
    expected = tokenizer.encode_chat("hi")
    process = chat_template._process
    assert tokenizer.encode_chat("hi") == expected and chat_template._process is process
    os.kill(process.pid, signal.SIGKILL)
    with pytest.raises(CheckpointError, match="its process ended"):
        tokenizer.encode_chat("hi")
    assert tokenizer.encode_chat("hi") == expected
