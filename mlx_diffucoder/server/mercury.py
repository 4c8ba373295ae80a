"""Mercury's interface, where it is not OpenAI's: fill in the middle, and the next edit."""

import re
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response

from .bodies import read
from .feed import done
from .mending import WORD
from .openai import ChatBody, chat_of, completions, head
from .problems import Problem
from .state import State
from .stream import ChatForm, Coming, EventStream, events
from .work import Progress

REGION = re.compile(r"<\|code_to_edit\|>\n?(.*?)\n?<\|/code_to_edit\|>", re.DOTALL)
FILE = re.compile(r"<\|current_file_content\|>\n?(.*?)\n?<\|/current_file_content\|>", re.DOTALL)
TAGS = re.compile(r"<\|/?(?:code_to_edit|current_file_content)\|>\n?")
CURSOR = "<|cursor|>"
LARGEST = 2000
"""Characters of a region in which words are looked at."""
NOTHING = "None"
"""The answer where there is nothing to edit."""


async def edit_completions(request: Request, state: State) -> Response:
    """`POST /v1/edit/completions`: the region to edit, in a fence, with one change; or `None`.

    The change is the text at the cursor, or, where there is nothing to write, a word that does not fit in its place (`Mending`).
    """
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
    sampling = body.sampling(body.max_completion_tokens or body.max_tokens)
    works = state.filling((start + before, after + end), sampling, copies=body.n or 1)
    results = await done(request, state.engine, works)
    texts = [_fenced(before, one.text, after) for one in results]
    if set(texts) == {NOTHING} and (
        mended := await _mended(request, state, (start, end), before + after, len(before) if cursor else None)
    ):
        results, texts = [mended] * len(texts), [_fenced("", mended.text, "")] * len(texts)
    first = head("editcmpl-", "chat.completion", state)
    if body.stream:  # in one piece: a fence is around the whole text

        async def coming() -> Coming:
            for number, (text, one) in enumerate(zip(texts, results, strict=True)):
                yield number, replace(one, text=text)

        return EventStream(events(coming(), len(texts), ChatForm(first, False), body.usage))
    return chat_of(first, texts, results)


async def _mended(request: Request, state: State, around: tuple[str, str], region: str, cursor: int | None) -> Progress | None:
    """A region with a word written anew, and what it took; None where nothing is to be changed, or cannot be told."""
    head = "" if any(map(str.strip, around)) else region[: region.find("\n") + 1]  # without a file its first line stands alone
    before, rest = around[0] + head, region[len(head) :]
    if not (before + around[1]).strip() or not WORD.search(rest) or len(rest) > LARGEST:
        return None
    works = state.mending((before, around[1]), rest, None if cursor is None else cursor - len(head))
    (result,) = await done(request, state.engine, works)
    return replace(result, text=head + result.text) if result.text else None


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
