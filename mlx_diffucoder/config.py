"""The two configurations: the checkpoint's, read leniently, and the user's, read strictly."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from .choices import RULES, WINDOWS, parse_choice
from .errors import ConfigError, did_you_mean

MAX_STEPS = 2**20  # past this, float32 cannot tell one timestep of the schedule from the next
EPS = 1e-3
ALGORITHMS = ("entropy", "maskgit_plus", "topk_margin", "origin")


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "exact": {"rule": "schedule", "window": "whole"},
    "balanced": {"rule": "threshold:tau=0.9", "window": "sliding:width=24,suffix=4"},
    "fast": {"rule": "backtrack:tau=0.7,fall=0.8", "window": "sliding:width=28,suffix=0"},
}
"""Named configurations; the README has what each was measured to do, and on which model."""

HOLES: Mapping[str, Any] = {"max_tokens": 64, "window": "sliding:width=64,suffix=0"}
"""What holds for holes in a text where nothing else is said: `max_tokens` is the longest hole."""
OF_ANSWERS = ("reference", "prefill", "until")
"""Fields of `GenerationConfig` that mean nothing to holes."""


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How to decode. The defaults are greedy, as the preset `balanced` has it.

    Attributes:
        max_tokens: masks on the canvas behind the prompt; the longest answer, in tokens.
        steps: denoising steps the schedule is spread over; None is one step a token.
        alg: the score that orders the commits: `entropy`, `maskgit_plus` (probability of the
            chosen token), `topk_margin` (p1 - p2), or `origin` (uniformly random order).
        temperature: 0 takes the most probable token, above 0 draws.
        top_p: nucleus: drop the tokens past this cumulative probability. It truncates the
            distribution that scores are computed of, so it matters at temperature 0 as well.
        top_k: keep the k most probable tokens; 0 keeps all. At temperature 0 as for `top_p`.
        alg_temp: 0 commits the best scores; above 0 draws the positions from softmax(score / alg_temp).
        eps: where the reference's timesteps end (they run from 1).
        seed: of every random choice; None takes a fresh one.
        raw: a text prompt is taken as it is, with no chat template, and special tokens written
            in it act as such.
        system: the system message of the chat template, where it has room for one.
        rule: how many are committed in a step: `schedule` (the reference's), or an adaptive rule with
            its parameters, as in `threshold:tau=0.8`; see `RULES`. `auto` is the preset `balanced`'s,
            but the schedule where one of its fields is given (steps, eps, alg_temp, alg `origin`,
            reference) or the window is `drafts`.
        window: what is forwarded: `whole` (the reference) or `sliding:width=24`; see `WINDOWS`. `auto` is
            `whole` for the schedule and `balanced`'s for other rules. Neither stays `auto`: what it
            stood for is what the object holds.
        prefill: how the answer starts: known text on the canvas behind the prompt, and part of the answer.
        until: texts at which an answer ends, before the first that its settled text contains.
        ban_tokens: tokens never to be chosen, as text (that of one token) or ids.
        reference: the reference decoder to the letter. Nothing keeps it from choosing the mask
            token or an id that the tokenizer does not know, and every one of `steps` runs a forward.

    Raises:
        ConfigError: a value that cannot work, by the field's name.
        TypeError: a field that does not exist.

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
    ban_tokens: tuple[str | int, ...] = ()
    reference: bool = False

    def __post_init__(self) -> None:
        # The reference spells "off" as None where we have a number for it.
        for name, off in (("top_p", 1.0), ("top_k", 0), ("alg_temp", 0.0)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, off)
        if self.alg not in ALGORITHMS:
            raise self._wrong("alg", f"one of {', '.join(ALGORITHMS)}", did_you_mean(str(self.alg), ALGORITHMS))
        self._check_whole("max_tokens", 1, None)
        if self.steps is not None:
            self._check_whole("steps", 1, MAX_STEPS)
        self._check_whole("top_k", 0, None)
        if self.seed is not None:
            self._check_whole("seed", 0, 2**64 - 1)
        # Beyond these float32 overflows; nothing between 0 and the first can be told from 0.
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
            raise ConfigError("system needs the chat template, and raw goes without it", field="system")

        self._check_constraints()
        self._choose_for_auto()
        parse_choice(self.rule, RULES, "rule")
        parse_choice(self.window, WINDOWS, "window")
        if self.rule != "schedule" and (self.steps is not None or self.alg == "origin" or self.alg_temp):
            raise ConfigError(f"rule {self.rule} decides by itself: steps, alg_temp and origin belong to schedule", field="rule")
        if self.reference and (self.rule, self.window) != ("schedule", "whole"):
            raise ConfigError("reference is the rule 'schedule' on the window 'whole'", field="reference")

    def _check_constraints(self) -> None:
        if not isinstance(self.prefill, str):
            raise self._wrong("prefill", "text")
        for name in ("until", "ban_tokens"):  # lists are taken too, as JSON has them
            if isinstance(getattr(self, name), str) or not isinstance(getattr(self, name), tuple | list):
                raise self._wrong(name, "a list")
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if not all(isinstance(text, str) and text for text in self.until):
            raise self._wrong("until", "texts, and not empty")
        if not all(one if isinstance(one, str) else is_number(one, int) and one >= 0 for one in self.ban_tokens):
            raise self._wrong("ban_tokens", "tokens' texts or ids")

    def _choose_for_auto(self) -> None:
        scheduled = self.steps is not None or self.eps != EPS or self.alg_temp or self.alg == "origin" or self.reference
        if self.rule == "auto":
            scheduled = scheduled or str(self.window).startswith("drafts")
            object.__setattr__(self, "rule", "schedule" if scheduled else PRESETS["balanced"]["rule"])
        if self.window == "auto":
            object.__setattr__(self, "window", "whole" if self.rule == "schedule" else PRESETS["balanced"]["window"])

    def _wrong(self, name: str, wanted: str, advice: str = "") -> ConfigError:
        return ConfigError(f"{name} must be {wanted}, not {getattr(self, name)!r}{advice}", field=name)

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
        """The configuration that a preset names, with other values for some fields.

        Raises:
            ConfigError: there is no such preset, or a value cannot work.
            TypeError: a field that does not exist.
        """
        if name not in PRESETS:
            near = did_you_mean(str(name), PRESETS)
            raise ConfigError(f"preset must be one of {', '.join(PRESETS)}, not {name!r}{near}", field="preset")
        return cls(**{**PRESETS[name], **fields})

    def to_dict(self) -> dict[str, Any]:
        """Every field, as JSON can hold it."""
        return asdict(self)


def is_number(value: Any, kind: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool)  # True is an int to Python
