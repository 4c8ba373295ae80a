"""What to paste into an editor's settings, so that it asks this server."""

from collections.abc import Mapping

LLAMA_VIM = """\
" ~/.vimrc or init.vim; nothing is needed if the server runs at its usual address
let g:llama_config = {{ 'endpoint_fim': '{url}/infill', 'n_predict': 64, 'api_key': '{key}',
    \\ 'endpoint_inst': '{url}/v1/chat/completions' }}"""

ZED = """\
// settings.json; Zed asks for a key once: any text will do where the server has none
{{
  "language_models": {{
    "ollama": {{
      "api_url": "{url}",
      "available_models": [{{ "name": "{model}", "max_tokens": {context} }}]
    }}
  }},
  "edit_predictions": {{
    "provider": "open_ai_compatible_api",
    "open_ai_compatible_api": {{
      "api_url": "{url}/v1/completions",
      "model": "{model}",
      "prompt_format": "qwen",
      "max_output_tokens": 64
    }}
  }}
}}"""

CONTINUE = """\
# ~/.continue/config.yaml
name: diffucode
version: 0.0.1
schema: v1
models:
  - name: diffucode
    provider: llama.cpp
    model: {model}
    apiBase: {url}
    apiKey: "{key}"
    roles: [autocomplete, chat]
    autocompleteOptions: {{ maxPromptTokens: 1024, debounceDelay: 150 }}"""

VSCODE = """\
// settings.json, for the extension llama-vscode
{{ "llama-vscode.endpoint": "{url}", "llama-vscode.api_key": "{key}", "llama-vscode.n_predict": 64 }}
// For chats: Chat > Manage Models > Ollama, with this in settings.json
{{ "github.copilot.chat.byok.ollamaEndpoint": "{url}" }}"""

MINUET = """\
-- init.lua, for minuet-ai.nvim
require('minuet').setup {{
  provider = 'openai_fim_compatible',
  n_completions = 1,
  virtualtext = {{ auto_trigger_ft = {{ '*' }}, keymap = {{ accept = '<A-a>' }} }},
  provider_options = {{ openai_fim_compatible = {{
    name = 'diffucode', end_point = '{url}/v1/completions', model = '{model}',
    api_key = function() return '{key}' end,
    optional = {{ max_tokens = 64 }},
  }} }},
}}"""

EDITORS: Mapping[str, str] = {
    "llama.vim": LLAMA_VIM,
    "zed": ZED,
    "continue": CONTINUE,
    "vscode": VSCODE,
    "minuet": MINUET,
}


LARGEST = 8192
"""Tokens that an editor is told to send at most."""


def settings_for(editor: str, *, url: str, model: str, key: str | None, context: int = LARGEST) -> str:
    """What to paste.

    Args:
        editor: one of `EDITORS`.
        url: of the server, without a path.
        key: that it wants; None for none.
        context: tokens that the model can take.
    """
    return EDITORS[editor].format(url=url, model=model, key=key or "none", context=min(context, LARGEST))
