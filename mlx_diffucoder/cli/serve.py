"""`diffucode serve`: a server for editors and scripts."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config import HOLES, GenerationConfig
from ..errors import ConfigError, ServerError, one_of
from . import options
from .command import Command, examples
from .terminal import note, put

if TYPE_CHECKING:
    from ..models.transformer import DiffusionModel
    from ..tokenizer import Tokenizer

EDITORS = ("llama.vim", "zed", "continue", "vscode", "minuet")
in_server = options.panel("Server")
Host = Annotated[str, in_server(help="The address to listen on. One that others can reach needs a key.")]
Port = Annotated[int, in_server(min=0, max=65535, help="The port; 0 takes a free one.")]
Key = Annotated[
    str | None,
    in_server(
        "--api-key",
        envvar="DIFFUCODE_API_KEY",
        help="Answer only requests with this key. Better as DIFFUCODE_API_KEY.",
        show_default=False,
    ),
]
Parallel = Annotated[int, in_server(min=1, max=256, help="Requests that are answered at once.")]
Queue = Annotated[int, in_server(min=0, max=10000, help="Requests that may wait; more get status 429.")]
AllowOrigin = Annotated[
    list[str] | None, in_server("--allow-origin", help="A web page's origin that may ask, besides this machine's; repeatable.")
]
IdleUnload = Annotated[
    float | None,
    in_server(
        "--idle-unload",
        min=0,
        help="Minutes without requests after which the model's memory is given back.",
        show_default="never",
    ),
]
LogPrompts = Annotated[bool, in_server("--log-prompts", help="Print what is asked on stderr.")]
PrintConfig = Annotated[
    str | None,
    in_server(
        "--print-config",
        metavar="EDITOR",
        help=f"Print what to paste into an editor's settings, and end: {', '.join(EDITORS)}.",
        autocompletion=options.among(EDITORS),
    ),
]

app = typer.Typer()


@app.command(
    cls=Command,
    epilog=examples("diffucode serve -m pocket", "diffucode serve --print-config llama.vim", "curl http://127.0.0.1:8012/health"),
)
def serve(
    context: typer.Context,
    model: options.Model = None,
    dtype: options.Dtype = None,
    adapter: options.Adapter = None,
    revision: options.Revision = None,
    refresh: options.Refresh = False,
    yes: options.Yes = False,
    shard: options.Shard = None,
    host: Host = "127.0.0.1",
    port: Port = 8012,
    api_key: Key = None,
    parallel: Parallel = 8,
    queue: Queue = 64,
    allow_origin: AllowOrigin = None,
    idle_unload: IdleUnload = None,
    log_prompts: LogPrompts = False,
    print_config: PrintConfig = None,
    preset: options.Preset = None,
    rule: options.Rule = "auto",
    window: options.Window = "auto",
    max_tokens: options.UsualMaxTokens = None,
    tuned: options.Tuned = True,
    quiet: options.Quiet = False,
) -> int:
    """Answer editors and scripts on this machine.

    It speaks the interfaces of llama.cpp (/infill, /completion), OpenAI (/v1), Ollama (/api) and Mercury, and shows a page at /.
    The first line on stdout is its address. Nothing leaves this machine, and no request downloads a model or runs code.
    """
    return _serve(context, options.decoding_config(context))


def _serve(context: typer.Context, config: GenerationConfig) -> int:
    from ..server.guard import is_loopback

    given = context.params
    local, key = is_loopback(given["host"]), given["api_key"] or None
    if (editor := given["print_config"]) is not None:
        if editor not in EDITORS:
            raise ConfigError(f"--print-config must be {one_of(EDITORS, editor)}", field="--print-config")
        put(_settings_of(given, editor, key))
        return 0
    if not (local or key):
        raise ServerError(f"--host {given['host']} can be reached by others; set a key with --api-key", field="--host")
    return _run(context, config, local=local, key=key)


def _settings_of(given: Mapping[str, Any], editor: str, key: str | None) -> str:
    """What to paste into an editor. A model that is on this machine says how much it can take."""
    from ..checkpoint import read_model_config
    from ..loading import DEFAULT_MODEL, local_folder
    from ..server.editors import settings_for
    from .model_option import ModelOption

    folder = local_folder(ModelOption.of(given).full_name)
    known = {} if folder is None else {"context": read_model_config(folder)[1].max_position_embeddings}
    url, model = _url(given["host"], given["port"]), given["model"] or DEFAULT_MODEL
    return settings_for(editor, url=url, model=model, key=key, **known)


def _run(context: typer.Context, config: GenerationConfig, *, local: bool, key: str | None) -> int:
    from ..loading import DEFAULT_MODEL, check_dtype, load
    from ..server.app import app_of
    from ..server.engine import Engine
    from ..server.serve import listening
    from ..server.serve import serve as answer
    from ..server.state import State
    from .model_option import ModelOption, adapter_named, fitted, folder_named
    from .shard import load_divided

    given = context.params
    check_dtype(given["dtype"])
    if given["shard"] and given["idle_unload"] is not None:
        raise ConfigError("--idle-unload and --shard do not go together; leave one out", field="--idle-unload")
    on = listening(given["host"], given["port"])
    wanted = ModelOption.of(given)
    adapter = adapter_named(given["adapter"], wanted)
    _, folder = folder_named(wanted)

    def opened() -> "tuple[DiffusionModel, Tokenizer]":
        if given["shard"]:
            _, model, tokenizer = load_divided(given)
        else:
            model, tokenizer = load(folder, dtype=given["dtype"], adapter=adapter, check_memory=not given["yes"])
        state.answers = fitted(context, config, model, verbose=False)
        if engine.about is None:  # the first time
            note(f"{state.name}: for editors and scripts, and a page to look at; stop it with Ctrl-C")
        return model, tokenizer

    idle = None if given["idle_unload"] is None else 60 * given["idle_unload"]
    engine = Engine(opened, parallel=given["parallel"], queue=given["queue"], idle=idle)
    holes = GenerationConfig(**HOLES)
    state = State(
        engine, given["model"] or DEFAULT_MODEL, config, holes, parallel=given["parallel"], log_prompts=given["log_prompts"]
    )
    url = _url(given["host"], on.getsockname()[1])
    app = app_of(state, key=key, local=local, origins=given["allow_origin"] or ())
    signal = answer(app, engine, on, lambda: put(url, flush=True))
    return 128 + signal if signal else 0


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
