"""llama.cpp's interface: holes and completions for llama.vim and llama.vscode, and what these ask about the server."""

from collections.abc import AsyncIterator
from functools import partial
from typing import Annotated, Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from .bodies import Body, Predict, Seed, Stops, Temperature, TopK, TopP, read, stops_of
from .feed import done, start
from .fim import name_line, rendered
from .problems import Problem
from .state import Sampling, State
from .stream import Coming, event, streamed
from .work import Progress, Work

TYPES = {"stop": "eos", "word": "word", "length": "limit", "time": "limit"}
Milliseconds = Annotated[float, Field(ge=0, le=1e9)]


class Extra(Body):
    """Another file, or a piece of one."""

    text: str
    filename: str | None = None

    @property
    def named(self) -> str:
        """The text after a comment with the name of its file."""
        return name_line(self.filename or "") + self.text if self.text else ""


class Common(Body):
    """What both requests have in common."""

    model: str | None = None
    prompt: str | list[int] | None = None
    n_predict: Predict | None = None
    temperature: Temperature | None = None
    top_p: TopP | None = None
    top_k: TopK | None = None
    seed: Seed | None = None
    stop: Stops | None = None
    stream: bool | None = None
    cache_prompt: bool | None = None
    t_max_prompt_ms: Milliseconds | None = None
    t_max_predict_ms: Milliseconds | None = None
    response_fields: list[str] | None = None

    @property
    def sampling(self) -> Sampling:
        """How the text is drawn. A negative length or seed is none."""
        return Sampling(
            max_tokens=self.n_predict if self.n_predict and self.n_predict > 0 else None,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            seed=None if self.seed is None or self.seed < 0 else self.seed,
            stops=stops_of(self.stop),
        )

    @property
    def waits(self) -> float | None:
        """Seconds for the prompt."""
        return self.t_max_prompt_ms / 1000 if self.t_max_prompt_ms else None

    @property
    def deadline(self) -> float | None:
        """Seconds for all."""
        return (self.t_max_predict_ms + (self.t_max_prompt_ms or 0)) / 1000 if self.t_max_predict_ms else None


class InfillBody(Common):
    """The body of `/infill`."""

    input_prefix: str | None = None
    input_suffix: str | None = None
    input_extra: list[Extra] | None = None


async def infill(request: Request, state: State) -> Response:
    """`POST /infill`: the text between `input_prefix` with `prompt`, and `input_suffix`."""
    body = await read(request, InfillBody)
    state.check_model(body.model)
    if isinstance(body.prompt, list):
        raise Problem(400, "prompt: must be text", param="prompt", code="invalid_value")
    extra = [one.named for one in body.input_extra or []]
    prefix, suffix = (body.input_prefix or "") + (body.prompt or ""), body.input_suffix or ""
    if body.n_predict == 0 and not any([prefix, suffix, *extra]):
        return _whole(Progress(reason="length"), body, state)
    keeps, warms = body.cache_prompt is not False, body.n_predict == 0
    waits, deadline = (None, None) if warms else (body.waits, body.deadline)  # nobody waits for what is warmed up
    works = state.filling((prefix, suffix), body.sampling, extra=extra, keeps=keeps, warms=warms, waits=waits, deadline=deadline)
    if warms and keeps:
        start(state.engine, works)
    return await _answered(request, body, works, state)


async def completion(request: Request, state: State) -> Response:
    """`POST /completion`: the text after a prompt, or in the hole of one that the client rendered."""
    body = await read(request, Common)
    state.check_model(body.model)
    if not body.prompt or (isinstance(body.prompt, str) and not body.prompt.strip()):
        raise Problem(400, "prompt: is empty", param="prompt", code="invalid_value")
    prompt = body.prompt
    if isinstance(prompt, str) and (around := rendered(prompt)):
        works = state.filling(
            around, body.sampling, keeps=body.cache_prompt is not False, waits=body.waits, deadline=body.deadline
        )
    elif isinstance(prompt, str):
        works = state.answering(lambda tokenizer: tokenizer.encode(prompt), prompt, body.sampling, deadline=body.deadline)
    else:
        works = state.answering(lambda tokenizer: list(prompt), tuple(prompt), body.sampling, deadline=body.deadline)
    return await _answered(request, body, works, state)


async def _answered(request: Request, body: Common, works: list[Work], state: State) -> Response:
    if body.n_predict == 0:  # the client warms the server up
        return _whole(Progress(reason="length"), body, state)
    if body.stream:
        return await streamed(request, state.engine, works, partial(_events, body=body, state=state))
    (result,) = await done(request, state.engine, works)
    return _whole(result, body, state)


def _whole(result: Progress, body: Common, state: State) -> Response:
    fields = report(result, body, state)
    wanted = body.response_fields
    return JSONResponse(fields if not wanted else {name: found for name in wanted if (found := _at(fields, name)) is not None})


async def _events(coming: Coming, body: Common, state: State) -> AsyncIterator[str]:
    sent = ""
    try:
        async for _, progress in coming:
            if new := progress.text[len(sent) :]:
                sent = progress.text
                yield event({"index": 0, "content": new, "tokens": [], "stop": False, "id_slot": 0})
            if progress.reason:
                yield event({**report(progress, body, state), "content": ""})
    except Problem as problem:
        yield event(problem.to_openai())


def report(result: Progress, body: Common, state: State) -> dict[str, Any]:
    """A finished text with its numbers, as llama.cpp's server reports them."""
    read, written = 1000 * result.first, 1000 * (result.seconds - result.first)
    prompt = result.prompt_tokens - result.cached
    return {
        "index": 0,
        "content": result.text,
        "tokens": [],
        "id_slot": 0,
        "stop": True,
        "model": state.name,
        "tokens_predicted": result.tokens,
        "tokens_evaluated": result.prompt_tokens,
        "generation_settings": _settings(body, state),
        "prompt": body.prompt if isinstance(body.prompt, str) else "",
        "has_new_line": "\n" in result.text,
        "truncated": False,
        "stop_type": TYPES[result.reason or "stop"],
        "stopping_word": "",
        "tokens_cached": result.cached,
        "timings": {
            "cache_n": result.cached,
            "prompt_n": prompt,
            "prompt_ms": read,
            "prompt_per_token_ms": read / max(1, prompt),
            "prompt_per_second": prompt / max(1e-3, read / 1000),
            "predicted_n": result.tokens,
            "predicted_ms": written,
            "predicted_per_token_ms": written / max(1, result.tokens),
            "predicted_per_second": result.tokens / max(1e-3, written / 1000),
            "forwards": result.nfe,
            "positions": result.positions,
        },
    }


def _settings(body: Common, state: State) -> dict[str, Any]:
    config = body.sampling.applied(state.answers)
    return {
        "n_ctx": state.about.context,
        "n_predict": -1 if body.n_predict is None else body.n_predict,
        "temperature": config.temperature,
        "top_p": config.top_p,
        "top_k": config.top_k,
        "seed": config.seed,
        "stop": list(config.until),
        "stream": bool(body.stream),
    }


def _at(fields: dict[str, Any], name: str) -> Any:
    """`timings/prompt_n` in a tree."""
    found: Any = fields
    for part in name.split("/"):
        found = found.get(part) if isinstance(found, dict) else None
    return found


async def health(request: Request, state: State) -> Response:
    """`GET /health`."""
    if state.engine.state == "loading":
        loading = {"code": 503, "message": "Loading model", "type": "unavailable_error"}
        return JSONResponse({"error": loading}, 503, {"retry-after": "1"})
    return JSONResponse({"status": "ok"})


async def props(request: Request, state: State) -> Response:
    """`GET /props`."""
    about = state.about
    return JSONResponse(
        {
            "default_generation_settings": {
                "id": 0,
                "n_ctx": about.context,
                "is_processing": state.engine.running > 0,
                "params": {},
            },
            "total_slots": state.parallel,
            "model_alias": state.name,
            "model_path": state.name,
            "chat_template": about.template or "",
            "build_info": f"diffucode {state.version}",
        }
    )


async def slots(request: Request, state: State) -> Response:
    """`GET /slots`."""
    running, context = state.engine.running, state.about.context
    return JSONResponse([{"id": one, "n_ctx": context, "is_processing": one < running} for one in range(state.parallel)])


async def metrics(request: Request, state: State) -> Response:
    """`GET /metrics`: Prometheus text."""
    counts = state.engine.counts
    values = {
        "requests_running": ("gauge", "Requests that take steps.", state.engine.running),
        "requests_waiting": ("gauge", "Requests that have not begun.", state.engine.waiting),
        "requests_cancelled_total": ("counter", "Requests whose client hung up.", counts.cancelled),
        "requests_finished_total": ("counter", "Requests that were answered.", counts.finished),
        "forwards_total": ("counter", "Forwards of the network.", counts.forwards),
        "positions_total": ("counter", "Positions forwarded.", counts.positions),
        "tiles_total": ("counter", "Tiles of 32 rows forwarded.", counts.tiles),
        "useful_tokens_total": ("counter", "Tokens of the answers.", counts.useful_tokens),
    }
    lines = [
        line
        for name, (kind, help, value) in values.items()
        for line in (f"# HELP diffucode_{name} {help}", f"# TYPE diffucode_{name} {kind}", f"diffucode_{name} {value}")
    ]
    return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")


ROUTES = (
    ("GET", "/health", health),
    ("GET", "/v1/health", health),
    ("GET", "/props", props),
    ("GET", "/slots", slots),
    ("GET", "/metrics", metrics),
    ("POST", "/infill", infill),
    ("POST", "/completion", completion),
    ("POST", "/completions", completion),
)
