"""The ids that are never generated."""

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from .arrays import from_numpy
from .errors import ConfigError
from .tokenizer import Tokenizer


def forbidden_ids(tokenizer: Tokenizer, vocab_size: int, ban: Sequence[str | int] = (), *, resizes: bool = False) -> mx.array:
    """The ids that are never generated, bool `[V]`: the mask token, ids without a token, and those of `ban`.

    Args:
        resizes: whether the canvas changes its length; otherwise a token that would expand it is no text, and forbidden.

    Raises:
        ConfigError: an entry of `ban` is not a token, or no token is left.
    """
    forbidden = np.ones(vocab_size, dtype=np.bool_)
    known = tokenizer.known_ids
    forbidden[known[known < vocab_size]] = False
    forbidden[tokenizer.mask_id] = True
    if tokenizer.sizes and not resizes:
        forbidden[tokenizer.sizes.expand] = True
    forbidden[[_token_of(tokenizer, one, vocab_size) for one in ban]] = True
    if forbidden.all():
        raise ConfigError("ban_tokens bans every token; leave some", field="ban_tokens")
    return from_numpy(forbidden)


def _token_of(tokenizer: Tokenizer, token: str | int, vocab_size: int) -> int:
    if isinstance(token, int):
        if token >= vocab_size:
            raise ConfigError(f"ban_tokens: {token} is not an id; ids go from 0 to {vocab_size - 1}", field="ban_tokens")
        return token
    ids = tokenizer.encode(token)
    if len(ids) != 1:
        parts = ", ".join(repr(tokenizer.decode([id])) for id in ids)
        raise ConfigError(f"ban_tokens: {token!r} is not one token but {len(ids)} ({parts}); ban one of them", field="ban_tokens")
    return ids[0]
