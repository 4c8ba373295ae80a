"""The process that renders chat templates. It reads chats, a line of JSON for several, and answers with their texts or an error.

It runs as a script: with the standard library and Jinja alone it starts in a tenth of a second.
"""

import json
import resource
import signal
import sys
from contextlib import suppress
from datetime import datetime
from functools import lru_cache, partial
from typing import Any, NoReturn

SECONDS = 2.0
"""Processor time for one chat."""
MEMORY = 2**29
"""Bytes of address space. macOS does not enforce this limit."""
LARGEST = 2**22
"""Characters of a chat, at most: more than any context holds."""


def serve() -> None:
    """Render chats until stdin ends. One that takes too long ends the process by a signal."""
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    for line in sys.stdin:
        texts, error = list[str](), ""
        try:
            template, chats, tokens = json.loads(line)
            for messages in chats:
                signal.setitimer(signal.ITIMER_PROF, SECONDS)
                texts.append(_rendered(template, messages, tokens))
        except MemoryError:
            error = "it takes too much memory"
        except Exception as raised:  # a template can raise anything that Python can
            error = (str(raised) or type(raised).__name__).splitlines()[0]
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps([texts, error]), flush=True)


def _rendered(template: str, messages: list[dict[str, str]], tokens: dict[str, str]) -> str:
    pieces, size = list[str](), 0
    # What transformers gives to a template.
    stream = _compiled(template).generate(messages=messages, tools=None, documents=None, add_generation_prompt=True, **tokens)
    for piece in stream:
        pieces.append(piece)
        size += len(piece)
        if size > LARGEST:
            raise ValueError(f"it writes more than {LARGEST} characters")
    return "".join(pieces)


@lru_cache(maxsize=4)
def _compiled(template: str) -> Any:
    import jinja2.ext
    import jinja2.sandbox

    class Generation(jinja2.ext.Extension):
        """`{% generation %}`, which marks answers for transformers' training and changes no text."""

        tags = {"generation"}  # noqa: RUF012

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            return jinja2.nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, Generation]
    )
    environment.filters["tojson"] = partial(json.dumps, ensure_ascii=False)
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda format: datetime.now().strftime(format)
    return environment.from_string(template)


def _refuse(message: str) -> NoReturn:
    import jinja2

    raise jinja2.TemplateError(message)


if __name__ == "__main__":
    sys.path[:] = sys.argv[1:]
    serve()
