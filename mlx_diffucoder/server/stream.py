"""Texts as server-sent events, in the form of OpenAI's interface."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from .engine import Engine
from .feed import Feed, merged, start, unless_gone
from .problems import Problem
from .work import Progress, Work

REASONS = {"stop": "stop", "word": "stop", "length": "length", "time": "length"}
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


def usage_of(results: Sequence[Progress]) -> dict[str, int]:
    """The tokens of some results of one request, and what they took: two fields more than OpenAI's."""
    names = {"prompt_tokens": "prompt_tokens", "completion_tokens": "tokens", "forwards": "nfe", "positions": "positions"}
    found = {name: sum(getattr(one, own) for one in results) for name, own in names.items()}
    return {**found, "total_tokens": found["prompt_tokens"] + found["completion_tokens"]}


class TextForm:
    """The chunks of a streamed completion.

    Args:
        head: the fields that every chunk begins with.
        diffusing: each chunk holds the whole text so far, with its masks, and replaces the one before.
    """

    def __init__(self, head: Mapping[str, Any], diffusing: bool):
        self.head, self._diffusing = head, diffusing

    def first(self, number: int) -> dict[str, Any] | None:
        """The chunk before the text."""
        return None

    def more(self, number: int, sent: str, progress: Progress) -> dict[str, Any] | None:
        """The chunk with what was not `sent` yet; None for nothing new."""
        whole = progress.text if progress.reason else progress.canvas
        new = whole if self._diffusing else progress.text[len(sent) :]
        return self.choice(number, **self.content(new)) if new else None

    def content(self, text: str) -> dict[str, Any]:
        """A text as this interface has it."""
        return {"text": text}

    def last(self, number: int, progress: Progress) -> dict[str, Any]:
        """The chunk after the text."""
        return self.choice(number, text="", finish_reason=REASONS[progress.reason or "stop"])

    def choice(self, number: int, finish_reason: str | None = None, **content: Any) -> dict[str, Any]:
        """A chunk of one choice."""
        return {**self.head, "choices": [{"index": number, **content, "finish_reason": finish_reason}]}


class ChatForm(TextForm):
    """The chunks of a streamed chat."""

    def __init__(self, head: Mapping[str, Any], diffusing: bool):
        super().__init__({**head, "object": "chat.completion.chunk"}, diffusing)

    def first(self, number: int) -> dict[str, Any] | None:
        return self.choice(number, delta={"role": "assistant", "content": ""})

    def content(self, text: str) -> dict[str, Any]:
        return {"delta": {"content": text}}

    def last(self, number: int, progress: Progress) -> dict[str, Any]:
        return self.choice(number, delta={}, finish_reason=REASONS[progress.reason or "stop"])


async def streamed(request: Request, engine: Engine, works: Sequence[Work], form: TextForm, usage: bool) -> Response:
    """The texts of some work as server-sent events.

    Raises:
        Problem: the work cannot begin; after that an error is an event.
    """
    feeds = start(engine, works)
    coming = merged(feeds)
    try:
        head = await unless_gone(request, anext(coming))
    except BaseException:
        leave(feeds)
        raise
    return StreamingResponse(_events(feeds, head, coming, form, usage), media_type="text/event-stream", headers=HEADERS)


async def _events(
    feeds: Sequence[Feed],
    head: tuple[int, Progress],
    coming: AsyncIterator[tuple[int, Progress]],
    form: TextForm,
    usage: bool,
) -> AsyncIterator[str]:
    sent, last = [""] * len(feeds), [Progress()] * len(feeds)
    try:
        for number in range(len(feeds)):
            if chunk := form.first(number):
                yield event(chunk)
        async for number, progress in chained(head, coming):
            last[number] = progress
            if chunk := form.more(number, sent[number], progress):
                sent[number] = progress.text
                yield event(chunk)
            if progress.reason:
                yield event(form.last(number, progress))
        if usage:
            yield event({**form.head, "choices": [], "usage": usage_of(last)})
    except Problem as problem:
        yield event(problem.to_openai())
    finally:
        leave(feeds)
    yield "data: [DONE]\n\n"


async def chained(head: Any, coming: AsyncIterator[Any]) -> AsyncIterator[Any]:
    """An element, and then those that come."""
    yield head
    async for one in coming:
        yield one


def leave(feeds: Sequence[Feed]) -> None:
    """Cancel what is not over."""
    for feed in feeds:
        feed.cancel()


def event(data: Any) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"
