"""`GenerationConfig`: how to decode, and the presets. Unknown names and values that cannot work are errors."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol, Self

from .choices import RULES, WINDOWS, DefaultLength, DefaultWindow, parse_choice
from .combinations import EPS as EPS
from .combinations import check_together
from .errors import ConfigError, one_of

MAX_STEPS = 2**20  # with more, float32 cannot tell one timestep of the schedule from the next
NEWER = ("threshold", "block_length", "end_ids", "tokens_per_step", "expand_budget", "pad_delete_to_right")
AUTOMATIC = ("rule", "window", "alg")
FORCING = ("forcing:skip=0.9", "forcing:block=16,add=0.9")
"""Block forcing in blocks that fill a tile of 32 rows by two; its rule and its window go together."""
ALGORITHMS = ("entropy", "maskgit_plus", "topk_margin", "origin")


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "exact": {"rule": "schedule", "window": "whole"},
    "balanced": {"rule": "threshold:tau=0.95", "window": "tree:rows=32"},
}
"""Named configurations. The documentation has what was measured of each, and on which model."""
PUBLISHED = "published"
"""The preset of a model's own settings, as its publisher states them: `Family.published`."""
PRESET_NAMES = (*PRESETS, PUBLISHED)

HOLES: Mapping[str, Any] = {"max_tokens": 64, "window": DefaultWindow("sliding:width=64,suffix=0")}
"""Defaults for infilling; `max_tokens` is the length of the longest hole that is tried."""


class Defaults(Protocol):
    """What decides where a field is `auto`: a family of models, as `models.base.Family`."""

    @property
    def name(self) -> str: ...
    @property
    def rule(self) -> str: ...
    @property
    def window(self) -> str: ...
    @property
    def alg(self) -> str: ...


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How to decode. The defaults are the preset `balanced` at temperature 0.

    Attributes:
        max_tokens: the masks after the prompt, and so the longest answer, in tokens. The default is 768, and 256 on windows
            whose cost grows with the canvas (`Choice.grows`); it is cut to what is left of the model's context.
        steps: the denoising steps of the schedule; None for one step a token. On the window `block-causal` the blocks of
            the answer share them equally, and with a threshold they are the most that it takes.
        alg: the score that orders the commits: `entropy`, `maskgit_plus` (the probability of the chosen token),
            `topk_margin` (p1 - p2), or `origin` (a uniformly random order). `auto` becomes the family's.
        temperature: 0 takes the most probable token, a larger value draws.
        top_p: nucleus sampling: keep the most probable tokens up to this cumulative probability. Scores are
            computed from what is kept, so this matters at temperature 0 too.
        top_k: keep the k most probable tokens; 0 keeps all. It matters at temperature 0 too.
        alg_temp: 0 commits the best scores; a larger value draws the positions from softmax(score / alg_temp).
        eps: the last timestep of the reference's schedule, which starts at 1.
        seed: the seed of every random choice; None for a new one each time.
        raw: use no chat template. Special tokens written in a text prompt become control tokens.
        system: the system message of the chat template.
        rule: how many tokens a step commits: `schedule` (the reference's), or an adaptive one, such as `threshold:tau=0.8`;
            see `RULES`. `auto` becomes the preset `balanced`'s on its window (`leftmost` with fewer than 16 rows),
            `threshold:tau=0.9` on others, and `schedule` where a field of the schedule is set (steps, eps, alg_temp, alg
            `origin`, reference) or the window is `drafts`.
        window: which positions a step forwards: `whole` (the reference's), or a window with its parameters, such as
            `sliding:width=24`; see `WINDOWS`. `auto` becomes `whole` for the schedule, and the preset `balanced`'s window
            for other rules; for a block-causal model it becomes `block-causal`.
        threshold: short for the rule `threshold:tau=...`.
        block_length: short for the window `block-causal:length=...`.
        prefill: the start of the answer, as text that is on the canvas from the beginning.
        until: an answer ends before the first of these texts.
        end_ids: an answer ends at the first of these ids; None for those of the checkpoint, `()` for none.
        ban_tokens: tokens that are never chosen, as ids or as the text of one token.
        tokens_per_step, expand_budget, pad_delete_to_right: for models whose canvas changes its length; see `resizing`.
        reference: decode as the reference code does. It may choose the mask token or an id without a token, and
            every one of `steps` runs a forward.
        auto: those of `rule`, `window` and `alg` that were `auto`: they have DiffuCoder's values until `for_model`
            gives them those of another family.

    Raises:
        ConfigError: a value cannot work; the message begins with the field's name.
        TypeError: there is no such field.

    Source: the generation config of Dream's `diffusion_generate` (DiffuCoder, arXiv 2506.20639).
    """

    max_tokens: int = DefaultLength(768)
    steps: int | None = None
    alg: str = "auto"
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
    threshold: float | None = None
    block_length: int | None = None
    prefill: str = ""
    until: tuple[str, ...] = ()
    end_ids: tuple[int, ...] | None = None
    ban_tokens: tuple[str | int, ...] = ()
    tokens_per_step: int = 1
    expand_budget: int | None = None
    pad_delete_to_right: bool = False
    reference: bool = False
    auto: frozenset[str] = field(default=frozenset(), repr=False, compare=False)

    def __post_init__(self) -> None:
        # The reference spells "off" as None where we have a number for it.
        for name, off in (("top_p", 1.0), ("top_k", 0), ("alg_temp", 0.0)):
            if getattr(self, name) is None:
                object.__setattr__(self, name, off)
        if self.alg not in (*ALGORITHMS, "auto"):
            raise ConfigError(f"alg must be {one_of(ALGORITHMS, self.alg)}", field="alg")
        for name, low in (("max_tokens", 1), ("top_k", 0), ("tokens_per_step", 1)):
            self._check_whole(name, low, None)
        # Beyond these float32 overflows. A smaller temperature cannot be told from 0.
        self._check_real("temperature", lambda t: t == 0 or 1e-6 <= t <= 1e6, "0, or from 1e-06 to 1e+06")
        self._check_real("top_p", lambda p: 0 < p <= 1, "above 0 and at most 1")
        self._check_real("alg_temp", lambda t: t == 0 or 1e-6 <= t <= 1e6, "0, or from 1e-06 to 1e+06")
        self._check_real("eps", lambda e: 0 <= e < 1, "at least 0 and below 1")
        for name in ("raw", "reference", "pad_delete_to_right"):
            if not isinstance(getattr(self, name), bool):
                raise self._wrong(name, "True or False")
        if self.system is not None and not isinstance(self.system, str):
            raise self._wrong("system", "text")
        if self.raw and self.system is not None:
            raise ConfigError("system needs the chat template, which raw leaves out", field="system")

        counts = {"steps": (1, MAX_STEPS), "seed": (0, 2**64 - 1), "block_length": (1, 2**20), "expand_budget": (0, 2**20)}
        for name, bounds in counts.items():
            if getattr(self, name) is not None:
                self._check_whole(name, *bounds)
        if self.threshold is not None:
            self._check_real("threshold", lambda p: 0 <= p <= 1, "from 0 to 1")
        self._check_constraints()
        self._choose_for_auto()
        parse_choice(self.rule, RULES, "rule")
        parse_choice(self.window, WINDOWS, "window")
        if isinstance(self.max_tokens, DefaultLength):
            object.__setattr__(self, "max_tokens", DefaultLength.of(self.window))
        check_together(self)

    def _check_constraints(self) -> None:
        if not isinstance(self.prefill, str):
            raise self._wrong("prefill", "text")
        for name in ("until", "ban_tokens", *(() if self.end_ids is None else ("end_ids",))):  # JSON has lists
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
        given = {name: getattr(self, name) for name in AUTOMATIC}
        usual = self._usual(None)
        auto = {name for name, value in given.items() if value == "auto" or (name in self.auto and value == usual[name])}
        for name, value in {**given, **{name: usual[name] for name in auto}, "auto": frozenset(auto)}.items():
            object.__setattr__(self, name, value)

    def _usual(self, family: Defaults | None, block_length: int = 0) -> dict[str, Any]:
        """The rule, the window and the score, with those of a family (None for DiffuCoder's) in the place of `auto`."""
        rule, window, alg = ("auto" if name in self.auto else str(getattr(self, name)) for name in AUTOMATIC)
        balanced = (family.rule, family.window) if family else tuple(PRESETS["balanced"].values())
        length = self.block_length or block_length
        if window == "auto" and length:
            window = f"block-causal:length={length}"
        forcing = rule.startswith("forcing"), window.startswith("forcing")  # the two go together
        if any(forcing) and "auto" in (rule, window):
            rule, window = rule if forcing[0] else FORCING[0], window if forcing[1] else FORCING[1]
        if rule == "auto":
            scheduled = self.steps is not None or self.eps != EPS or self.alg_temp or alg == "origin" or self.reference
            kind = window.partition(":")[0]
            usual = balanced[0] if kind in ("auto", balanced[1].partition(":")[0]) else "threshold:tau=0.9"
            few = kind == "tree" and parse_choice(window, WINDOWS, "window")[1]["rows"] < 16
            usual = "leftmost" if few else usual  # with few masks in view a threshold loses more
            rule = "schedule" if scheduled or kind == "drafts" else usual
            rule = rule if self.threshold is None else f"threshold:tau={self.threshold}"
        if window == "auto":
            forced = balanced[1].startswith("forcing") and not rule.startswith("forcing")
            window = "whole" if rule == "schedule" else "sliding" if forced else balanced[1]
        if alg == "auto":
            alg = family.alg if family else "entropy"
        return {"rule": rule, "window": window, "alg": alg}

    def for_model(self, model: Any) -> Self:
        """The configuration for a model from `load`: with its family's values where this one's were `auto`.

        Raises:
            ConfigError: the window is not one for the family's attention.
        """
        family: Defaults = model.family
        block_length: int = model.config.block_length
        if isinstance(self.window, DefaultWindow) and (block_length or family.window == "whole"):
            return replace(self, window="auto", rule="auto" if "rule" in self.auto else self.rule).for_model(model)
        config = replace(self, **self._usual(family, block_length), auto=frozenset())
        if (config.window.partition(":")[0] == "block-causal") != bool(block_length):
            fits = f"they need block-causal:length={block_length}" if block_length else "their attention is not block-causal"
            raise ConfigError(f"window {config.window} is not for {family.name} models; {fits}", field="window")
        return config

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
    def preset(cls, name: str, *, published: Mapping[str, Any] | None = None, **fields: Any) -> Self:
        """The configuration of a preset, with other values for some fields.

        Args:
            published: for the preset `published`, which is the model's: `DiffusionModel.published`.

        Raises:
            ConfigError: there is no such preset, or a value cannot work.
            TypeError: there is no such field.
        """
        if name not in PRESET_NAMES:
            raise ConfigError(f"preset must be {one_of(list(PRESET_NAMES), name)}", field="preset")
        return cls(**{**preset_fields("exact" if name == PUBLISHED else name), **(published or {}), **fields})

    def within(self, left: int) -> Self:
        """The configuration for a context with room for `left` tokens: a default `max_tokens` is cut to that."""
        cut = isinstance(self.max_tokens, DefaultLength) and left < self.max_tokens
        return replace(self, max_tokens=left) if cut else self

    def to_dict(self) -> dict[str, Any]:
        """Every field that decides something, ready for JSON; those of `NEWER` only if set, so that older files compare equal."""
        fields = {name: value for name, value in asdict(self).items() if name not in NEWER or value != getattr(type(self), name)}
        del fields["auto"]
        return fields


def preset_fields(name: str) -> dict[str, Any]:
    """The fields of a preset, for `replace`: DiffuCoder's values, and which of them other families have their own of."""
    auto = {"window"} if PRESETS[name]["rule"] == "schedule" else {"rule", "window"}
    return {**PRESETS[name], "auto": frozenset(auto)}


def is_number(value: Any, kind: Any) -> bool:
    """Whether a value is of a kind of number, and not True or False."""
    return isinstance(value, kind) and not isinstance(value, bool)  # True is an int to Python
