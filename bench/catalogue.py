"""The published models that this program runs: what they are, and what their publishers state of them.

The scores are the publishers' own, of HumanEval and MBPP; they were not measured here. A licence is blank where it is not
known. Gated pages and newer releases can say something else: read the card before you use a model.
"""

from dataclasses import dataclass

from mlx_diffucoder.models.base import ModelConfig

from .shapes import SHAPES


@dataclass(frozen=True, kw_only=True)
class Published:
    """A published model.

    Attributes:
        name: how people call it.
        repo: its Hub id.
        family: `Family.name`.
        shape: its name in `SHAPES`.
        good_at: what it is for, in a few words.
        human_eval, mbpp: pass@1 in percent, as `source` states it; None where it does not.
        source: where the scores are from.
        licence: as the card states it.
    """

    name: str
    repo: str
    family: str
    shape: str
    good_at: str
    human_eval: float | None = None
    mbpp: float | None = None
    source: str = "model card"
    licence: str | None = None

    @property
    def config(self) -> ModelConfig:
        """The shape of its network."""
        return SHAPES[self.shape]


CATALOGUE = (
    Published(
        name="DiffuCoder-7B-cpGRPO",
        repo="apple/DiffuCoder-7B-cpGRPO",
        family="Dream",
        shape="7b",
        good_at="code from a description",
        human_eval=73.2,
        mbpp=67.5,
        source="arXiv 2506.20639",
    ),
    Published(
        name="Stable-DiffCoder-8B",
        repo="ByteDance-Seed/Stable-DiffCoder-8B-Instruct",
        family="Stable-DiffCoder",
        shape="stable-diffcoder-8b",
        good_at="code from a description; blocks of 4 rows",
        human_eval=86.6,
        mbpp=85.7,
        licence="MIT",
    ),
    Published(
        name="Dream-Coder-7B",
        repo="Dream-org/Dream-Coder-v0-Instruct-7B",
        family="Dream",
        shape="7b",
        good_at="code from a description",
        human_eval=82.9,
        mbpp=79.9,
    ),
    Published(
        name="d3LLM-Coder-7B",
        repo="d3LLM/d3LLM_Dream_Coder",
        family="Dream",
        shape="7b",
        good_at="few forwards for an answer",
        human_eval=82.4,
    ),
    Published(
        name="DreamOn-7B",
        repo="Dream-org/DreamOn-v0-7B",
        family="DreamOn",
        shape="7b",
        good_at="infilling, holes of any length",
        source="",
    ),
    Published(
        name="CoDA-1.7B",
        repo="Salesforce/CoDA-v0-Instruct",
        family="CoDA",
        shape="coda-1.7b",
        good_at="small memory",
        human_eval=54.3,
        mbpp=47.2,
    ),
    Published(
        name="SDAR-8B",
        repo="JetLM/SDAR-8B-Chat",
        family="SDAR",
        shape="sdar-8b",
        good_at="text and code; blocks of 4 rows",
        human_eval=76.8,
    ),
    Published(
        name="LLaDA-8B",
        repo="GSAI-ML/LLaDA-8B-Instruct",
        family="LLaDA",
        shape="llada-8b",
        good_at="text",
        human_eval=35.4,
    ),
    Published(
        name="Open-dCoder-0.5B",
        repo="fredzzp/open-dcoder-0.5B",
        family="Open-dCoder",
        shape="open-dcoder-0.5b",
        good_at="trying things out",
        human_eval=20.8,
    ),
)
"""The model that this program was made for comes first."""
