"""What all interfaces of the server share: the engine, the model's name, and how requests become work."""

import hashlib
import secrets
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace

from .. import __version__
from ..config import GenerationConfig
from ..tokenizer import Tokenizer
from .engine import About, Engine
from .filling import Filling
from .mending import Mending
from .problems import Problem
from .work import Answering, Work


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the texts of a request are drawn. None leaves a value as the server has it.

    At temperature 0 `top_p` and `top_k` say nothing; clients send them all the same.
    """

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stops: tuple[str, ...] = ()

    def applied(self, config: GenerationConfig) -> GenerationConfig:
        """A configuration with these values."""
        temperature = config.temperature if self.temperature is None else self.temperature
        seed = self.seed if self.seed is not None else config.seed
        return replace(
            config,
            temperature=temperature,
            max_tokens=config.max_tokens if self.max_tokens is None else self.max_tokens,
            until=self.stops,
            top_p=(self.top_p or config.top_p) if temperature else 1.0,
            top_k=(config.top_k if self.top_k is None else self.top_k) if temperature else 0,
            seed=secrets.randbits(32) if seed is None and temperature else (seed or 0) % 2**64,
        )


@dataclass
class State:
    """What the interfaces share.

    Attributes:
        engine: does the work.
        name: the model's, as the user gave it.
        answers, holes: how to decode when a request does not say; `answers` is set anew when the model is loaded.
        started: seconds since the epoch.
        parallel: as in `Engine`.
        log_prompts: whether prompts may be logged.
    """

    engine: Engine
    name: str
    answers: GenerationConfig
    holes: GenerationConfig
    parallel: int = 8
    log_prompts: bool = False
    started: float = field(default_factory=time.time)

    @property
    def version(self) -> str:
        """This program's."""
        return __version__

    @property
    def about(self) -> About:
        """The facts of the model. Raises `Problem` while it is loaded for the first time."""
        if self.engine.about is None:
            raise Problem(503, "Loading model", code="unavailable", seconds=1)
        return self.engine.about

    def check_model(self, name: str | None) -> None:
        """Raise `Problem` for the name of another model. An empty name is the model; a tag may follow its name."""
        if name and name.strip() and name not in (self.name, f"{self.name}:latest", self.name.partition(":")[0]):
            raise Problem(
                404,
                f"the model {name[:100]!r} is not loaded; this server has {self.name!r}",
                param="model",
                code="model_not_found",
            )

    def answering(
        self,
        prompt: Callable[[Tokenizer], list[int]],
        key: Hashable,
        sampling: Sampling,
        *,
        copies: int = 1,
        shows: bool = False,
        deadline: float | None = None,
    ) -> list[Work]:
        """Work for answers to one prompt.

        Args:
            prompt: as in `Answering`.
            key: equal for equal prompts.
            copies: how many answers.

        Raises:
            Problem: the model is loaded for the first time.
        """
        config = sampling.applied(self.answers)
        _ = self.about
        shared = None if config.temperature else ("answer", key, config, shows, deadline)
        return [Answering(prompt, config, shows, copy, shared, deadline=deadline) for copy in range(copies)]

    def filling(
        self,
        around: tuple[str, str],
        sampling: Sampling,
        *,
        extra: Sequence[str] = (),
        copies: int = 1,
        waits: float | None = None,
        keeps: bool = True,
        warms: bool = False,
        deadline: float | None = None,
        shows: bool = False,
    ) -> list[Work]:
        """Work for the texts of one hole.

        Args:
            around: the texts before and after it.
            extra: other texts, which are shown before it as far as there is room.
            waits, keeps, warms: as in `Filling`.

        Raises:
            Problem: the model is loaded for the first time, it cannot fill holes, or there is no text around the hole.
        """
        self._check_infills()
        prefix, suffix = around
        prefix = "".join(text if text.endswith("\n") else text + "\n" for text in extra if text) + prefix
        if not (prefix.strip() or suffix.strip()):
            raise Problem(400, "there is no text around the hole", param="prompt", code="invalid_value")
        config = sampling.applied(self.holes)
        shared = None if config.temperature else ("hole", prefix, suffix, config, waits, keeps, warms, deadline, shows)
        wanted = Filling(
            prefix, suffix, config, waits=waits, keeps=keeps, warms=warms, shows=shows, key=shared, deadline=deadline
        )
        return [replace(wanted, copy=copy) for copy in range(copies)]

    def mending(self, around: tuple[str, str], region: str, cursor: int | None) -> list[Work]:
        """Work for a region with its least probable word written anew. The arguments are as for `Mending`.

        Raises:
            Problem: the model is loaded for the first time, or it cannot fill holes.
        """
        self._check_infills()
        return [Mending(*around, region, cursor, self.holes, ("mending", around, region, cursor))]

    def _check_infills(self) -> None:
        if not self.about.infills:
            raise Problem(501, f"{self.about.family} models cannot fill holes", code="not_implemented")


def digest_of(text: str) -> str:
    """A short name made of a text, for an interface that wants one."""
    return hashlib.sha256(text.encode()).hexdigest()
