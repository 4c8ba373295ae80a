"""OpenAI's interface: models, completions (with a suffix, a hole) and chat completions, whole or streamed."""

import json
import secrets
import time
from functools import partial
from typing import Annotated, Any, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from .bodies import Body, Copies, Count, Seed, Stops, Temperature, TopK, TopP, read, stops_of
from .feed import done
from .fim import rendered
from .problems import Problem
from .state import Sampling, State
from .stream import REASONS, ChatForm, TextForm, events, streamed, usage_of
from .work import Progress, Work


class Part(Body):
    """A part of a message's content."""

    type: str
    text: str | None = None


class Message(Body):
    """A message of a chat."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None

    def of_template(self, number: int) -> dict[str, str]:
        """As the chat template takes it. Raises `Problem` for content that is no text, or that is missing."""
        where, content = f"messages[{number}].content", self.content
        if isinstance(content, list):
            other = next((part.type for part in content if part.type not in ("text", "input_text")), None)
            if other is not None:
                raise Problem(400, f"{where}: {other} is not supported; send text", param="messages", code="invalid_value")
            content = "".join(part.text or "" for part in content)
        if self.role in ("user", "tool") and not (content or "").strip():
            raise Problem(400, f"{where}: is empty", param="messages", code="invalid_value")
        return {"role": {"developer": "system", "tool": "user"}.get(self.role, self.role), "content": content or ""}


class StreamOptions(Body):
    """What a stream holds in addition."""

    include_usage: bool | None = None


class Common(Body):
    """What completions and chats have in common."""

    model: str | None = None
    max_tokens: Count | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    seed: Seed | None = None
    stop: Stops | None = None
    n: Copies | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    diffusing: bool | None = None

    def sampling(self, longest: int | None) -> Sampling:
        """How the texts are drawn."""
        return Sampling(
            max_tokens=longest,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            seed=self.seed,
            stops=stops_of(self.stop),
        )

    @property
    def usage(self) -> bool:
        """Whether the stream ends with the usage."""
        return bool(self.stream_options and self.stream_options.include_usage)

    async def stream_of(self, request: Request, state: State, works: list[Work], form: TextForm) -> Response:
        """The texts as server-sent events. Raises as `streamed`."""
        lines = partial(events, count=len(works), form=form, usage=self.usage)
        return await streamed(request, state.engine, works, lines)


class ResponseFormat(Body):
    """The form that the answer must have."""

    type: str


class ChatBody(Common):
    """The body of a chat completion."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Count | None = None
    tools: list[dict[str, Any]] | None = None
    tool_choice: str | dict[str, Any] | None = None
    response_format: ResponseFormat | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None

    def check(self) -> None:
        """Raise `Problem` for what this server cannot do."""
        if self.tool_choice not in (None, "auto", "none"):
            raise Problem(
                400, "tool_choice: tools are not called here; use auto or none", param="tool_choice", code="unsupported"
            )
        if self.response_format and self.response_format.type != "text":
            raise Problem(400, "response_format: only text is supported", param="response_format", code="unsupported")
        if self.logprobs or self.top_logprobs:
            raise Problem(400, "logprobs: are not supported; leave them out", param="logprobs", code="unsupported")


class CompletionBody(Common):
    """The body of a completion."""

    prompt: str | list[str] | list[int] | list[list[int]]
    suffix: str | None = None
    echo: bool | None = None
    logprobs: int | None = None

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """Each prompt, as text or as ids."""
        given = self.prompt
        if isinstance(given, str):
            return [given]
        return [given] if given and isinstance(given[0], int) else given  # type: ignore[list-item,return-value]


async def models(request: Request, state: State) -> Response:
    """`GET /v1/models`."""
    return JSONResponse({"object": "list", "data": [_model(state)]})


async def model(request: Request, state: State) -> Response:
    """`GET /v1/models/{id}`."""
    state.check_model(request.path_params["id"])
    return JSONResponse(_model(state))


def _model(state: State) -> dict[str, Any]:
    return {"id": state.name, "object": "model", "created": int(state.started), "owned_by": "diffucode"}


async def chat_completions(request: Request, state: State) -> Response:
    """`POST /v1/chat/completions`."""
    body = await read(request, ChatBody)
    state.check_model(body.model)
    body.check()
    messages = [message.of_template(number) for number, message in enumerate(body.messages)]
    works = state.answering(
        lambda tokenizer: tokenizer.encode_messages(messages),
        json.dumps(messages),
        body.sampling(body.max_completion_tokens or body.max_tokens),
        copies=body.n or 1,
        shows=bool(body.diffusing and body.stream),
    )
    first = head("chatcmpl-", "chat.completion", state)
    if body.stream:
        return await body.stream_of(request, state, works, ChatForm(first, bool(body.diffusing)))
    results = await done(request, state.engine, works)
    return chat_of(first, [one.text for one in results], results)


def chat_of(first: dict[str, Any], texts: list[str], results: list[Progress]) -> Response:
    """The answers of a chat, after the fields that it begins with."""
    choices = [
        {"index": number, "message": {"role": "assistant", "content": text}, "finish_reason": REASONS[one.reason or "stop"]}
        for number, (text, one) in enumerate(zip(texts, results, strict=True))
    ]
    return JSONResponse({**first, "choices": choices, "usage": usage_of(results)})


async def completions(request: Request, state: State) -> Response:
    """`POST /v1/completions`, and Mercury's `/v1/fim/completions`."""
    body = await read(request, CompletionBody)
    state.check_model(body.model)
    if body.logprobs is not None:
        raise Problem(400, "logprobs: are not supported; leave them out", param="logprobs", code="unsupported")
    works, before = list[Work](), list[str]()
    if not all(isinstance(one, str) for one in body.prompts):
        for field in ("suffix", "echo"):
            if getattr(body, field):
                raise Problem(400, f"{field}: needs a prompt that is text", param=field, code="unsupported")
    for prompt in body.prompts:
        found = _of_prompt(body, prompt, state)
        works += found
        before += [prompt if body.echo and isinstance(prompt, str) else ""] * len(found)
    if not 1 <= len(works) <= 64:
        raise Problem(400, "prompt: from 1 to 64 texts can be asked for at once", param="prompt", code="invalid_value")
    first = head("cmpl-", "text_completion", state)
    if body.stream:
        return await body.stream_of(request, state, works, TextForm(first, bool(body.diffusing), before))
    results = await done(request, state.engine, works)
    choices = [
        {"index": number, "text": echoed + one.text, "finish_reason": REASONS[one.reason or "stop"]}
        for number, (one, echoed) in enumerate(zip(results, before, strict=True))
    ]
    return JSONResponse({**first, "choices": choices, "usage": usage_of(results)})


def _of_prompt(body: CompletionBody, prompt: str | list[int], state: State) -> list[Work]:
    sampling = body.sampling(body.max_tokens)
    copies, shows = body.n or 1, bool(body.diffusing and body.stream)
    around = rendered(prompt) if isinstance(prompt, str) else None
    if body.suffix and isinstance(prompt, str):
        around = (prompt, body.suffix)  # type: ignore[assignment]
    if around:
        return state.filling(around, sampling, copies=copies, shows=shows)
    if not prompt or (isinstance(prompt, str) and not prompt.strip()):
        raise Problem(400, "prompt: is empty", param="prompt", code="invalid_value")
    if isinstance(prompt, str):
        return state.answering(lambda tokenizer: tokenizer.encode(prompt), prompt, sampling, copies=copies, shows=shows)
    return state.answering(lambda tokenizer: list(prompt), tuple(prompt), sampling, copies=copies, shows=shows)


def head(prefix: str, kind: str, state: State) -> dict[str, Any]:
    """The fields that every answer begins with."""
    return {"id": prefix + secrets.token_hex(12), "object": kind, "created": int(time.time()), "model": state.name}


ROUTES = (
    ("GET", "/v1/models", models),
    ("GET", "/v1/models/{id:path}", model),
    ("POST", "/v1/completions", completions),
    ("POST", "/v1/chat/completions", chat_completions),
    ("GET", "/models", models),  # where llama.cpp's server has them too; Continue asks there
    ("POST", "/chat/completions", chat_completions),
)
