"""Texts as server-sent events, in the form of OpenAI's interface."""

import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from .engine import Engine
from .feed import merged, start, unless_gone
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
        before: what stands before each text.
    """

    def __init__(self, head: Mapping[str, Any], diffusing: bool, before: Sequence[str] = ()):
        self.head, self._diffusing, self._before = head, diffusing, before

    def first(self, number: int) -> dict[str, Any] | None:
        """The chunk before the text."""
        return self.choice(number, text=self._before[number]) if self._before and self._before[number] else None

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


class EventStream(StreamingResponse):
    """Lines that are sent as they come: server-sent events unless `media_type` says otherwise."""

    media_type = "text/event-stream"

    def __init__(self, lines: AsyncIterator[str], media_type: str | None = None):
        super().__init__(lines, headers=HEADERS, media_type=media_type)


Coming = AsyncIterator[tuple[int, Progress]]
"""The progress of some work as it comes, each with the number of its piece."""


async def streamed(
    request: Request,
    engine: Engine,
    works: Sequence[Work],
    lines: Callable[[Coming], AsyncIterator[str]],
    kind: str | None = None,
) -> Response:
    """The progress of some work as lines of an interface. The work is cancelled when the client hangs up.

    Raises:
        Problem: the work cannot begin.
        ClientDisconnect: the client has gone.
    """
    feeds = start(engine, works)
    coming = merged(feeds)

    def leave() -> None:
        for feed in feeds:
            feed.cancel()

    try:
        head = await unless_gone(request, anext(coming))
    except BaseException:
        leave()
        raise

    async def chained() -> Coming:
        yield head
        async for one in coming:
            yield one

    async def text() -> AsyncIterator[str]:
        try:
            async for line in lines(chained()):
                yield line
        finally:
            leave()

    return EventStream(text(), media_type=kind)


async def events(coming: Coming, count: int, form: TextForm, usage: bool) -> AsyncIterator[str]:
    """The server-sent events of `count` texts in the form of OpenAI's interface. An error is one of them."""
    sent, last = [""] * count, [Progress()] * count
    try:
        for number in range(count):
            if chunk := form.first(number):
                yield event(chunk)
        async for number, progress in coming:
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
    yield "data: [DONE]\n\n"


def event(data: Any) -> str:
    """A server-sent event."""
    return f"data: {json.dumps(data, ensure_ascii=False)}\n\n"
