"""Learn a small tokenizer for a model trained from scratch: Qwen2's byte-level BPE.

It splits and merges as DiffuCoder's does, with special tokens of the same names, so `Tokenizer.load` reads the folder like
one from the Hub. Not covered: text unlike the corpus, which costs a token a byte.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from mlx_diffucoder.errors import ConfigError
from mlx_diffucoder.tokenizer_files import QWEN2_SPLIT

# DiffuCoder's, in the order of their ids.
SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|beginoftext|>", "<|mask|>", "<|dlm_pad|>")
_ROLES = {"bos_token": "<|beginoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|dlm_pad|>", "mask_token": "<|mask|>"}
CHAT_TEMPLATE = (
    "{%- for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{%- endfor %}"
    "{%- if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{%- endif %}"
)


def write_vocabulary(texts: Iterable[str], size: int, folder: Path) -> dict[str, int]:
    """Learn a vocabulary of `size` ids and write the Hub's tokenizer files.

    Args:
        texts: the corpus.
        size: total number of ids, including the 256 bytes and the six special tokens.
        folder: receives `vocab.json`, `merges.txt` and `tokenizer_config.json`.

    Returns:
        The ids of the special tokens.

    Raises:
        ConfigError: `size` is too small for the bytes, or too large for the texts.
    """
    merged = size - len(SPECIAL)
    if merged < 256:
        raise ConfigError(f"vocab_size must be at least {256 + len(SPECIAL)}, not {size}", field="vocab_size")
    fast = Tokenizer(models.BPE())
    fast.normalizer = normalizers.NFC()
    fast.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(QWEN2_SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    fast.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=merged, initial_alphabet=alphabet, show_progress=False))
    if (learned := fast.get_vocab_size()) != merged:
        raise ConfigError(
            f"vocab_size {size} is more than these texts yield, which is {learned + len(SPECIAL)}", field="vocab_size"
        )
    folder.mkdir(parents=True, exist_ok=True)
    fast.model.save(str(folder))
    ids = {token: merged + place for place, token in enumerate(SPECIAL)}
    (folder / "tokenizer_config.json").write_text(json.dumps(_settings(ids), indent=2) + "\n", encoding="utf-8")
    return ids


def _settings(ids: dict[str, int]) -> dict[str, Any]:
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "added_tokens_decoder": {str(id): {"content": token, **flags} for token, id in ids.items()},
        **_ROLES,
        "errors": "replace",
        "add_bos_token": False,
        "add_prefix_space": False,
        "chat_template": CHAT_TEMPLATE,
    }
