"""The published models that this program runs: what they are, and what their publishers state of them.

The scores are the publishers' own, of HumanEval and MBPP; they were not measured here. A licence is blank where it is not
known. Gated pages and newer releases can say something else: read the card before you use a model.

You can name one by its short name, with bits a weight or without: `stable-diffcoder:4bit`, `stable-diffcoder`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from .errors import CheckpointError
from .models.base import Family, ModelConfig
from .models.coda import CODA
from .models.dream import DREAM
from .models.dreamon import DREAMON
from .models.llada import LLADA
from .models.open_dcoder import OPEN_DCODER
from .models.sdar import SDAR
from .models.stable_diffcoder import STABLE_DIFFCODER


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published model. Its weights have 16 bits as they are published.

    Attributes:
        name: how people call it.
        repo: its Hub id.
        converted: Hub ids of conversions to MLX, by their bits.
        family, config: the family and the shape of its network.
        good_at: what it is for, in a few words.
        human_eval, mbpp: pass@1 in percent, as `source` states it; None where it does not.
        source: where the scores are from.
        licence: as the card states it.
    """

    name: str
    repo: str
    family: Family
    config: ModelConfig
    good_at: str
    human_eval: float | None = None
    mbpp: float | None = None
    source: str = "model card"
    licence: str | None = None
    converted: Mapping[int, str] = field(default_factory=dict)

    @property
    def short_name(self) -> str:
        """The name in lower case, without the size and what follows it."""
        return re.split(r"-\d", self.name.lower())[0]

    @property
    def repos(self) -> Mapping[int, str]:
        """The Hub ids of its weights, by their bits."""
        return {**self.converted, PUBLISHED_BITS: self.repo}

    @property
    def usual_bits(self) -> int:
        """The bits to take when nobody names some: those of a conversion that is on the Hub, or else 4."""
        return max(self.converted, default=4)

    def at(self, bits: int) -> str:
        """The short name with bits: `stable-diffcoder:4bit`."""
        return f"{self.short_name}:{bits}bit"


PUBLISHED_BITS = 16
BITS = (2, 3, 4, 5, 6, 8, PUBLISHED_BITS)
"""The bits of a weight: those that MLX quantizes to, and 16 for floats."""

QWEN_7B = ModelConfig(
    vocab_size=152_064,
    hidden_size=3584,
    intermediate_size=18944,
    num_hidden_layers=28,
    num_attention_heads=28,
    num_key_value_heads=4,
    mask_token_id=151_666,
)
"""The shape of every 7B model here, which Qwen2.5-Coder-7B has, too."""

CATALOGUE = (
    Published(
        name="DiffuCoder-7B-cpGRPO",
        repo="apple/DiffuCoder-7B-cpGRPO",
        family=DREAM,
        config=QWEN_7B,
        good_at="code from a description",
        human_eval=73.2,
        mbpp=67.5,
        source="arXiv 2506.20639",
        converted={8: "mlx-community/DiffuCoder-7B-cpGRPO-8bit"},
    ),
    Published(
        name="Stable-DiffCoder-8B",
        repo="ByteDance-Seed/Stable-DiffCoder-8B-Instruct",
        family=STABLE_DIFFCODER,
        config=ModelConfig(
            vocab_size=155_136,
            hidden_size=4096,
            intermediate_size=14336,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=8,
            mask_token_id=5,
            max_position_embeddings=8192,
            rope_theta=500_000.0,
            qkv_bias=False,
            block_length=4,
        ),
        good_at="code from a description; blocks of 4 rows",
        human_eval=86.6,
        mbpp=85.7,
        licence="MIT",
    ),
    Published(
        name="Dream-Coder-7B",
        repo="Dream-org/Dream-Coder-v0-Instruct-7B",
        family=DREAM,
        config=QWEN_7B,
        good_at="code from a description",
        human_eval=82.9,
        mbpp=79.9,
    ),
    Published(
        name="d3LLM-Coder-7B",
        repo="d3LLM/d3LLM_Dream_Coder",
        family=DREAM,
        config=QWEN_7B,
        good_at="few forwards for an answer",
        human_eval=82.4,
    ),
    Published(
        name="DreamOn-7B",
        repo="Dream-org/DreamOn-v0-7B",
        family=DREAMON,
        config=QWEN_7B,
        good_at="infilling, holes of any length",
        source="",
    ),
    Published(
        name="CoDA-1.7B",
        repo="Salesforce/CoDA-v0-Instruct",
        family=CODA,
        config=ModelConfig(
            vocab_size=151_936,
            hidden_size=2048,
            intermediate_size=6144,
            num_hidden_layers=28,
            num_attention_heads=16,
            num_key_value_heads=8,
            mask_token_id=151_669,
            max_position_embeddings=40960,
            head_dim=128,
            qkv_bias=False,
            qk_norm=True,
        ),
        good_at="small memory",
        human_eval=54.3,
        mbpp=47.2,
    ),
    Published(
        name="SDAR-8B",
        repo="JetLM/SDAR-8B-Chat",
        family=SDAR,
        config=ModelConfig(
            vocab_size=151_936,
            hidden_size=4096,
            intermediate_size=12288,
            num_hidden_layers=36,
            num_attention_heads=32,
            num_key_value_heads=8,
            mask_token_id=151_669,
            max_position_embeddings=32768,
            head_dim=128,
            qkv_bias=False,
            qk_norm=True,
            block_length=4,
        ),
        good_at="text and code; blocks of 4 rows",
        human_eval=76.8,
    ),
    Published(
        name="LLaDA-8B",
        repo="GSAI-ML/LLaDA-8B-Instruct",
        family=LLADA,
        config=ModelConfig(
            vocab_size=126_464,
            hidden_size=4096,
            intermediate_size=12288,
            num_hidden_layers=32,
            num_attention_heads=32,
            num_key_value_heads=32,
            mask_token_id=126_336,
            max_position_embeddings=4096,
            rope_theta=500_000.0,
            rms_norm_eps=1e-5,
            qkv_bias=False,
        ),
        good_at="text",
        human_eval=35.4,
    ),
    Published(
        name="Open-dCoder-0.5B",
        repo="fredzzp/open-dcoder-0.5B",
        family=OPEN_DCODER,
        config=ModelConfig(
            vocab_size=151_936,
            hidden_size=896,
            intermediate_size=4864,
            num_hidden_layers=24,
            num_attention_heads=14,
            num_key_value_heads=2,
            mask_token_id=151_665,
            max_position_embeddings=32768,
            tie_word_embeddings=True,
        ),
        good_at="trying things out",
        human_eval=20.8,
    ),
)
"""The model that this program was made for comes first."""


def find(name: str) -> tuple[Published, int | None] | None:
    """The model that a name names, and its bits, if the name has some; None for any other name.

    A name is a short one or a full one, in any case, or a Hub id with bits.

    >>> find("Stable-DiffCoder:4bit")[1], find("coda")[1], find("apple/DiffuCoder-7B-cpGRPO")
    (4, None, None)

    Raises:
        CheckpointError: there are no such bits.
    """
    head, colon, bits = name.partition(":")
    names = {name.lower(): one for one in CATALOGUE for name in (one.short_name, one.name, *((one.repo,) if colon else ()))}
    model = names.get(head.lower())
    if model is None:
        return None
    if not colon:
        return model, None
    count = bits.lower().removesuffix("bit")
    if count not in map(str, BITS):
        raise CheckpointError(f"{name}: bits must be one of {', '.join(map(str, BITS))}, as in {model.at(4)}, not {bits!r}")
    return model, int(count)
