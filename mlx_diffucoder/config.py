"""`GenerationConfig`: how to decode, and the presets. Unknown names and values that cannot work are errors."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from .choices import RULES, WINDOWS, parse_choice
from .errors import ConfigError, one_of

MAX_STEPS = 2**20  # with more, float32 cannot tell one timestep of the schedule from the next
EPS = 1e-3
NEWER = ("end_ids",)
ALGORITHMS = ("entropy", "maskgit_plus", "topk_margin", "origin")


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "exact": {"rule": "schedule", "window": "whole"},
    "balanced": {"rule": "threshold:tau=0.95", "window": "tree:rows=32"},
}
"""Named configurations. The documentation has what was measured of each, and on which model."""

HOLES: Mapping[str, Any] = {"max_tokens": 64, "window": "sliding:width=64,suffix=0"}
"""Defaults for infilling; `max_tokens` is the length of the longest hole that is tried."""


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How to decode. The defaults are the preset `balanced` at temperature 0.

    Attributes:
        max_tokens: the masks after the prompt, and so the longest answer, in tokens.
        steps: the denoising steps of the schedule; None for one step a token.
        alg: the score that orders the commits: `entropy`, `maskgit_plus` (the probability of the chosen token),
            `topk_margin` (p1 - p2), or `origin` (a uniformly random order).
        temperature: 0 takes the most probable token, a larger value draws.
        top_p: nucleus sampling: keep the most probable tokens up to this cumulative probability. Scores are
            computed from what is kept, so this matters at temperature 0 too.
        top_k: keep the k most probable tokens; 0 keeps all. It matters at temperature 0 too.
        alg_temp: 0 commits the best scores; a larger value draws the positions from softmax(score / alg_temp).
        eps: the last timestep of the reference's schedule, which starts at 1.
        seed: the seed of every random choice; None for a new one each time.
        raw: use no chat template. Special tokens written in a text prompt become control tokens.
        system: the system message of the chat template.
        rule: how many tokens a step commits: `schedule` (the reference's), or an adaptive rule with its
            parameters, such as `threshold:tau=0.8`; see `RULES`. `auto` becomes the preset `balanced`'s rule on its
            window, `threshold:tau=0.9` on others, and `schedule` where a field of the schedule is set (steps, eps,
            alg_temp, alg `origin`, reference) or the window is `drafts`.
        window: which positions a step forwards: `whole` (the reference's), or a window with its parameters, such
            as `sliding:width=24`; see `WINDOWS`. `auto` becomes `whole` for the schedule, `sliding` for `backtrack`,
            and the preset `balanced`'s window for other rules.
        prefill: the start of the answer, as text that is on the canvas from the beginning.
        until: an answer ends before the first of these texts.
        end_ids: an answer ends at the first of these ids; None for those of the checkpoint, `()` for none.
        ban_tokens: tokens that are never chosen, as ids or as the text of one token.
        reference: decode as the reference code does. It may choose the mask token or an id without a token, and
            every one of `steps` runs a forward.

    Raises:
        ConfigError: a value cannot work; the message begins with the field's name.
        TypeError: there is no such field.

    Source: the generation config of Dream's `diffusion_generate` (DiffuCoder, arXiv 2506.20639).
    """

    max_tokens: int = 256
    steps: int | None = None
    alg: str = "entropy"
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    alg_temp: float = 0.0
    eps: float = EPS
    seed: int | None = None
    raw: bool = False
    system: str | None = None
    rule: str = "auto"
    window: str = "auto"
    prefill: str = ""
    until: tuple[str, ...] = ()
    end_ids: tuple[int, ...] | None = None
    ban_tokens: tuple[str | int, ...] = ()
    reference: bool = False

    def __post_init__(self) -> None:
        # The reference spells "off" as None where we have a number for it.
        for name, off in (("top_p", 1.0), ("top_k", 0), ("alg_temp", 0.0)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, off)
        if self.alg not in ALGORITHMS:
            raise ConfigError(f"alg must be {one_of(ALGORITHMS, self.alg)}", field="alg")
        self._check_whole("max_tokens", 1, None)
        if self.steps is not None:
            self._check_whole("steps", 1, MAX_STEPS)
        self._check_whole("top_k", 0, None)
        if self.seed is not None:
            self._check_whole("seed", 0, 2**64 - 1)
        # Beyond these float32 overflows. A smaller temperature cannot be told from 0.
        self._check_real("temperature", lambda t: t == 0 or 1e-6 <= t <= 1e6, "0, or from 1e-06 to 1e+06")
        self._check_real("top_p", lambda p: 0 < p <= 1, "above 0 and at most 1")
        self._check_real("alg_temp", lambda t: t == 0 or 1e-6 <= t <= 1e6, "0, or from 1e-06 to 1e+06")
        self._check_real("eps", lambda e: 0 <= e < 1, "at least 0 and below 1")
        for name in ("raw", "reference"):
            if not isinstance(getattr(self, name), bool):
                raise self._wrong(name, "True or False")
        if self.system is not None and not isinstance(self.system, str):
            raise self._wrong("system", "text")
        if self.raw and self.system is not None:
            raise ConfigError("system needs the chat template, which raw leaves out", field="system")

        self._check_constraints()
        self._choose_for_auto()
        parse_choice(self.rule, RULES, "rule")
        parse_choice(self.window, WINDOWS, "window")
        if self.rule != "schedule" and (self.steps is not None or self.alg == "origin" or self.alg_temp):
            raise ConfigError(f"rule {self.rule} takes no steps, alg_temp or origin; use the rule schedule", field="rule")
        if str(self.window).startswith("tree") and self.rule.partition(":")[0] in ("schedule", "backtrack"):
            raise ConfigError(f"rule {self.rule} cannot commit on the window tree; use threshold, or another rule", field="rule")
        if self.reference and (self.rule, self.window) != ("schedule", "whole"):
            raise ConfigError("reference needs the rule 'schedule' and the window 'whole'", field="reference")

    def _check_constraints(self) -> None:
        if not isinstance(self.prefill, str):
            raise self._wrong("prefill", "text")
        for name in ("until", "ban_tokens", "end_ids"):  # JSON has lists
            if name == "end_ids" and self.end_ids is None:
                continue
            if isinstance(getattr(self, name), str) or not isinstance(getattr(self, name), tuple | list):
                raise self._wrong(name, "a list")
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not all(is_number(id, int) and id >= 0 for id in self.end_ids or ()):
            raise self._wrong("end_ids", "a list of token ids")
        if not all(isinstance(text, str) and text for text in self.until):
            raise self._wrong("until", "a list of texts that are not empty")
        if not all(one if isinstance(one, str) else is_number(one, int) and one >= 0 for one in self.ban_tokens):
            raise self._wrong("ban_tokens", "a list of tokens, each as text or id")

    def _choose_for_auto(self) -> None:
        scheduled = self.steps is not None or self.eps != EPS or self.alg_temp or self.alg == "origin" or self.reference
        window = str(self.window).partition(":")[0]
        if self.rule == "auto":
            usual = PRESETS["balanced"]["rule"] if window in ("auto", "tree") else "threshold:tau=0.9"
            object.__setattr__(self, "rule", "schedule" if scheduled or window == "drafts" else usual)
        if window == "auto":
            windows = {"schedule": "whole", "backtrack": "sliding"}
            usual = PRESETS["balanced"]["window"]
            object.__setattr__(self, "window", windows.get(self.rule.partition(":")[0], usual))

    def _wrong(self, name: str, wanted: str) -> ConfigError:
        return ConfigError(f"{name} must be {wanted}, not {getattr(self, name)!r}", field=name)

    def _check_whole(self, name: str, low: int, high: int | None) -> None:
        value = getattr(self, name)
        if not is_number(value, int) or value < low or (high is not None and value > high):
            bound = f"of {low} or more" if high is None else f"from {low} to {high}"
            raise self._wrong(name, f"a whole number {bound}")

    def _check_real(self, name: str, possible: Callable[[float], bool], bound: str) -> None:
        value = getattr(self, name)
        if not is_number(value, int | float) or not math.isfinite(value) or not possible(value):
            raise self._wrong(name, bound)

    @classmethod
    def preset(cls, name: str, **fields: Any) -> Self:
        """The configuration of a preset, with other values for some fields.

        Raises:
            ConfigError: there is no such preset, or a value cannot work.
            TypeError: there is no such field.
        """
        if name not in PRESETS:
            raise ConfigError(f"preset must be {one_of(list(PRESETS), name)}", field="preset")
        return cls(**{**PRESETS[name], **fields})

    def to_dict(self) -> dict[str, Any]:
        """Every field, ready for JSON; without those of `NEWER` that are None, so that older files still compare equal."""
        return {name: value for name, value in asdict(self).items() if name not in NEWER or value is not None}


def is_number(value: Any, kind: Any) -> bool:
    """Whether a value is of a kind of number, and not True or False."""
    return isinstance(value, kind) and not isinstance(value, bool)  # True is an int to Python
