"""Mercury's interface, where it is not OpenAI's: fill in the middle, and the next edit."""

import re
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response

from .bodies import read
from .feed import done
from .openai import ChatBody, chat_of, completions, head
from .problems import Problem
from .state import State
from .stream import ChatForm, Coming, EventStream, events

REGION = re.compile(r"<\|code_to_edit\|>\n?(.*?)\n?<\|/code_to_edit\|>", re.DOTALL)
FILE = re.compile(r"<\|current_file_content\|>\n?(.*?)\n?<\|/current_file_content\|>", re.DOTALL)
TAGS = re.compile(r"<\|/?(?:code_to_edit|current_file_content)\|>\n?")
CURSOR = "<|cursor|>"
NOTHING = "None"
"""The answer where there is nothing to edit."""


async def edit_completions(request: Request, state: State) -> Response:
    """`POST /v1/edit/completions`: the region to edit, with the hole at its cursor filled, in a fence; or `None`."""
    body = await read(request, ChatBody)
    state.check_model(body.model)
    body.check()
    prompt = body.messages[-1].of_template(len(body.messages) - 1)["content"]
    region = REGION.search(prompt)
    if region is None:
        raise Problem(400, "messages: there is no region <|code_to_edit|> to edit", param="messages", code="invalid_value")
    before, cursor, after = region[1].partition(CURSOR)
    if not cursor:
        before, after = region[1], ""
    file = FILE.search(prompt)
    start, _, end = _around(file[1], region[0]) if file else ("", "", "")
    works = state.filling((start + before, after + end), body.sampling(body.max_completion_tokens or body.max_tokens))
    results = await done(request, state.engine, works)
    texts = [_fenced(before, one.text, after) for one in results]
    first = head("editcmpl-", "chat.completion", state)
    if body.stream:  # in one piece: a fence is around the whole text

        async def coming() -> Coming:
            for number, (text, one) in enumerate(zip(texts, results, strict=True)):
                yield number, replace(one, text=text)

        return EventStream(events(coming(), len(texts), ChatForm(first, False), body.usage))
    return chat_of(first, texts, results)


def _around(file: str, region: str) -> tuple[str, str, str]:
    """The file's text before and after a region in it, without tags."""
    start, found, end = file.partition(region)
    return TAGS.sub("", start).replace(CURSOR, ""), found, TAGS.sub("", end).replace(CURSOR, "")


def _fenced(before: str, text: str, after: str) -> str:
    return f"```\n{before}{text}{after}\n```" if text.strip() else NOTHING


ROUTES = (
    ("POST", "/v1/fim/completions", completions),
    ("POST", "/v1/edit/completions", edit_completions),
)
