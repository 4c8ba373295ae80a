"""Ollama's interface: version, tags, show, generate and chat. It streams lines of JSON unless it is told not to."""

import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from .bodies import Body, Predict, Seed, Stops, Temperature, TopK, read, stops_of
from .feed import done
from .fim import rendered
from .openai import Message
from .problems import Problem
from .state import Sampling, State, digest_of
from .stream import Coming, streamed
from .work import Progress, Work

VERSION = "0.12.0"
"""The version of Ollama's interface; VS Code wants 0.6.4 or newer."""
Fraction = Annotated[float, Field(ge=0, le=1)]


class Options(Body):
    """How a text is drawn."""

    num_predict: Predict | None = None
    temperature: Temperature | None = None
    top_p: Fraction | None = None
    top_k: TopK | None = None
    seed: Seed | None = None
    stop: Stops | None = None

    @property
    def sampling(self) -> Sampling:
        """In our words. A negative length or seed is none, and so is a `top_p` of 0."""
        return Sampling(
            max_tokens=self.num_predict if self.num_predict and self.num_predict > 0 else None,
            temperature=self.temperature,
            top_p=self.top_p or None,
            top_k=self.top_k,
            seed=None if self.seed is None or self.seed < 0 else self.seed,
            stops=stops_of(self.stop),
        )


class Common(Body):
    """What both requests have in common."""

    model: str | None = None
    stream: bool | None = None
    options: Options | None = None
    format: Any = None
    images: list[str] | None = None

    def check(self) -> None:
        """Raise `Problem` for what this server cannot do."""
        if self.format:
            raise Problem(400, "format: only text is supported", param="format")
        if self.images:
            raise Problem(400, "images: are not supported; send text", param="images")


class GenerateBody(Common):
    """The body of `/api/generate`."""

    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    raw: bool | None = None


class ChatMessage(Message):
    """A message of a chat."""

    images: list[str] | None = None


class ChatBody(Common):
    """The body of `/api/chat`."""

    messages: list[ChatMessage] | None = None
    tools: list[dict[str, Any]] | None = None


class ShowBody(Body):
    """The body of `/api/show`."""

    model: str | None = None
    name: str | None = None


async def generate(request: Request, state: State) -> Response:
    """`POST /api/generate`: a chat of one message; with `raw` the text after a prompt, with `suffix` the text of a hole."""
    body = await read(request, GenerateBody)
    state.check_model(body.model)
    body.check()
    prompt, sampling = body.prompt or "", (body.options or Options()).sampling
    around = (prompt, body.suffix) if body.suffix else rendered(prompt)
    if around:
        works = state.filling(around, sampling)
    elif not prompt.strip():
        return _loaded(state, {"response": ""})
    elif body.raw:
        works = state.answering(lambda tokenizer: tokenizer.encode(prompt), prompt, sampling)
    else:
        system = body.system
        works = state.answering(lambda tokenizer: tokenizer.encode_chat(prompt, system=system), (prompt, system), sampling)
    return await _answered(request, body, works, state, lambda text: {"response": text})


async def chat(request: Request, state: State) -> Response:
    """`POST /api/chat`."""
    body = await read(request, ChatBody)
    state.check_model(body.model)
    body.check()
    if not body.messages:
        return _loaded(state, {"message": {"role": "assistant", "content": ""}})
    if any(message.images for message in body.messages):
        raise Problem(400, "messages: images are not supported; send text", param="messages")
    messages = [message.of_template(number) for number, message in enumerate(body.messages)]
    sampling = (body.options or Options()).sampling
    works = state.answering(lambda tokenizer: tokenizer.encode_messages(messages), json.dumps(messages), sampling)
    return await _answered(request, body, works, state, lambda text: {"message": {"role": "assistant", "content": text}})


def _head(state: State) -> dict[str, Any]:
    return {"model": state.name, "created_at": now()}


def now() -> str:
    """The time as Ollama writes it."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def _loaded(state: State, content: dict[str, Any]) -> Response:
    """The answer to a request that only loads the model."""
    return JSONResponse({**_head(state), **content, "done": True, "done_reason": "load"})


def _end(result: Progress, state: State, content: dict[str, Any]) -> dict[str, Any]:
    reason = "stop" if result.reason in ("stop", "word") else "length"
    return {
        **_head(state),
        **content,
        "done": True,
        "done_reason": reason,
        "total_duration": int(1e9 * result.seconds),
        "load_duration": 0,
        "prompt_eval_count": result.prompt_tokens,
        "prompt_eval_duration": int(1e9 * result.first),
        "eval_count": result.tokens,
        "eval_duration": int(1e9 * (result.seconds - result.first)),
    }


async def _answered(request: Request, body: Common, works: list[Work], state: State, content: Any) -> Response:
    if body.stream is False:
        (result,) = await done(request, state.engine, works)
        return JSONResponse(_end(result, state, content(result.text)))
    lines = partial(_lines, state=state, content=content)
    return await streamed(request, state.engine, works, lines, "application/x-ndjson")


async def _lines(coming: Coming, state: State, content: Any) -> AsyncIterator[str]:
    sent = ""
    try:
        async for _, progress in coming:
            if new := progress.text[len(sent) :]:
                sent = progress.text
                yield json.dumps({**_head(state), **content(new), "done": False}, ensure_ascii=False) + "\n"
            if progress.reason:
                yield json.dumps(_end(progress, state, content("")), ensure_ascii=False) + "\n"
    except Problem as problem:
        yield json.dumps({"error": problem.message}, ensure_ascii=False) + "\n"


async def version(request: Request, state: State) -> Response:
    """`GET /api/version`."""
    return JSONResponse({"version": VERSION})


async def tags(request: Request, state: State) -> Response:
    """`GET /api/tags`: the one model."""
    return JSONResponse({"models": [_model(state)]})


async def ps(request: Request, state: State) -> Response:
    """`GET /api/ps`: the model, while it is in memory."""
    if state.engine.state != "ready":
        return JSONResponse({"models": []})
    more = {"expires_at": "0001-01-01T00:00:00Z", "size_vram": state.about.bytes, "context_length": state.about.context}
    return JSONResponse({"models": [{**_model(state), **more}]})


async def show(request: Request, state: State) -> Response:
    """`POST /api/show`."""
    body = await read(request, ShowBody)
    state.check_model(body.model or body.name)
    about, kind = state.about, _architecture(state)
    return JSONResponse(
        {
            "modelfile": f"FROM {state.name}\n",
            "parameters": "",
            "template": about.template or "",
            "details": _details(state),
            "model_info": {
                "general.architecture": kind,
                "general.basename": state.name.partition(":")[0].rpartition("/")[2],
                "general.parameter_count": about.parameters,
                f"{kind}.context_length": about.context,
                f"{kind}.embedding_length": about.width,
            },
            "capabilities": ["completion", *(["insert"] if about.infills else [])],
            "modified_at": _time(state),
        }
    )


def _model(state: State) -> dict[str, Any]:
    return {
        "name": state.name,
        "model": state.name,
        "modified_at": _time(state),
        "size": state.about.bytes,
        "digest": digest_of(state.name),
        "details": _details(state),
    }


def _details(state: State) -> dict[str, Any]:
    about, kind = state.about, _architecture(state)
    return {
        "parent_model": "",
        "format": "mlx",
        "family": kind,
        "families": [kind],
        "parameter_size": _parameters(about.parameters),
        "quantization_level": f"Q{about.bits}" if about.bits < 16 else f"F{about.bits}",
    }


def _parameters(count: int) -> str:
    """`7.6B`."""
    return f"{count / 1e9:.1f}B" if count >= 1e9 else f"{count / 1e6:.1f}M"


def _architecture(state: State) -> str:
    return "".join(filter(str.isalnum, state.about.family.lower()))


def _time(state: State) -> str:
    return datetime.fromtimestamp(state.started, UTC).isoformat().replace("+00:00", "Z")


ROUTES = (
    ("GET", "/api/version", version),
    ("GET", "/api/tags", tags),
    ("GET", "/api/ps", ps),
    ("POST", "/api/show", show),
    ("POST", "/api/generate", generate),
    ("POST", "/api/chat", chat),
)
