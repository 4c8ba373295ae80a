"""The baseline: mlx-lm's own autoregressive generation, one token after the other.

By default mlx-lm runs a Qwen2, Qwen3 or Llama of the subject's shape with the subject's own weights: its layers are built
around the same arrays, so nothing is held twice and the quantization is the same in each layer. A forward takes as long as
that of any such model of this shape; the text it writes means nothing. Alternatively it runs a checkpoint of its own, such as
Qwen2.5-Coder, if one is on this machine.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_diffucoder.config import GenerationConfig
from mlx_diffucoder.device import synchronized
from mlx_diffucoder.errors import BenchError
from mlx_diffucoder.hub import cached
from mlx_diffucoder.memory import check_fits

from .decoders import AUTOREGRESSIVE, Decoder, Run
from .roofline import Work
from .shapes import SHAPES, dimensions
from .subjects import Subject, found_here, without_embeddings

CODERS = {
    4: "mlx-community/Qwen2.5-Coder-7B-Instruct-4bit",
    8: "mlx-community/Qwen2.5-Coder-7B-Instruct-8bit",
    16: "Qwen/Qwen2.5-Coder-7B-Instruct",
}
"""By bits a weight, the model that a DiffuCoder-7B is compared with if it is in the Hub's cache."""
SAME_WEIGHTS = "same weights"
"""The name of a baseline built around the subject's weights."""
PREFILL_STEP = 2048
"""Prompt positions that mlx-lm forwards at once."""


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """A model as mlx-lm runs it.

    Attributes:
        tokenizer: mlx-lm's; None if the weights are the subject's, whose text then means nothing.
        work: the weights that a forward reads, for the roofline.
    """

    name: str
    model: Any
    tokenizer: Any
    work: Work

    @property
    def ends(self) -> bool:
        """Whether it ends its answers itself; otherwise it writes as many tokens as it is told to."""
        return self.tokenizer is not None

    def prompt(self, text: str, ids: list[int], config: GenerationConfig) -> list[int]:
        """The prompt's ids by its own chat template, or `ids` if it has no tokenizer of its own."""
        if not self.ends:
            return ids
        if config.raw or self.tokenizer.chat_template is None:
            return list(self.tokenizer.encode(text))
        system = [{"role": "system", "content": config.system}] if config.system else []
        return list(self.tokenizer.apply_chat_template([*system, {"role": "user", "content": text}], add_generation_prompt=True))

    def run(self, ids: list[int], tokens: int) -> Run:
        """Write at most `tokens` tokens greedily, and end after the end token."""
        ends = self.tokenizer.eos_token_ids if self.ends else ()
        mx.reset_peak_memory()
        written, first = 0, 0.0
        with synchronized():
            start = time.perf_counter()
            for token in generated(self.model, ids, tokens):
                first = first or time.perf_counter() - start
                written += 1
                if token in ends or written == tokens:
                    break
            seconds = time.perf_counter() - start
            mx.synchronize()  # mlx-lm computes one token ahead; that one must not slow the next run
        chunks = [min(PREFILL_STEP, len(ids) - 1 - at) for at in range(0, len(ids) - 1, PREFILL_STEP)]
        return Run(
            seconds=seconds,
            first=first,
            nfe=len(chunks) + written,
            positions=sum(chunks) + written,
            useful_tokens=written,
            forwards=[*((1, float(chunk)) for chunk in chunks), (written, 1.0)],
            peak_memory_bytes=mx.get_peak_memory(),
        )


def autoregressive(baseline: Baseline, prompts: list[list[int]], tokens: list[int]) -> Decoder:
    """The baseline as a decoder of prompts.

    Args:
        prompts: ids of each prompt.
        tokens: for each prompt, the most tokens to write.
    """

    def run(number: int) -> Run:
        return baseline.run(prompts[number], tokens[number])

    lengths = [len(ids) for ids in prompts]
    name = f"mlx-lm, {baseline.name}"
    return Decoder(name=name, kind=AUTOREGRESSIVE, rate=None, work=baseline.work, prompts=lengths, run=run, warm_up=run)


def generated(model: Any, ids: list[int], tokens: int) -> Iterator[int]:
    """Yield mlx-lm's greedy tokens one by one."""
    from mlx_lm.generate import generate_step

    for token, _ in generate_step(prompt=mx.array(ids), model=model, max_tokens=tokens):
        yield int(token)


def same_weights(subject: Subject) -> Baseline:
    """mlx-lm's Qwen2 (or Qwen3 or Llama, as the layers are) of the subject's shape, around the subject's weights."""
    from mlx_lm.models import llama, qwen2, qwen3

    shape = subject.model.config
    module: Any = qwen3 if shape.qk_norm else qwen2 if shape.qkv_bias else llama
    kind = module.__name__.rpartition(".")[2]
    model = module.Model(module.ModelArgs.from_dict({**asdict(shape), "model_type": kind}))
    model.update_modules(subject.model.leaf_modules())
    model.eval()
    return Baseline(name=SAME_WEIGHTS, model=model, tokenizer=None, work=subject.forwarded)


def coder(name: str, subject: Subject) -> Baseline:
    """A checkpoint that mlx-lm loads itself; nothing is downloaded.

    Raises:
        BenchError: it is not on this machine, or mlx-lm cannot load it.
        CheckpointError: it does not fit into memory next to `subject`.
    """
    folder = folder_of(name)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    check_fits(f"--baseline {name} and {subject.name}", size + subject.work.bytes, 2 * subject.work.parameters)
    from mlx_lm.utils import compute_bits_per_weight, get_total_parameters, load

    try:
        model, tokenizer = load(path_or_hf_repo=str(folder))
    except Exception as error:  # its loaders, and those of the tokenizers, document no exceptions
        raise BenchError(f"--baseline {name}: mlx-lm cannot load it ({' '.join(str(error).split())[:200]})") from None
    work = Work(parameters=get_total_parameters(model=model), bits_per_weight=compute_bits_per_weight(model=model))
    return Baseline(name=name, model=model, tokenizer=tokenizer, work=without_embeddings(model, work))


def folder_of(name: str) -> Path:
    """The folder of a baseline. Raises `BenchError` if it is not on this machine."""
    folder = found_here(name)
    if folder is None:
        raise BenchError(
            f"--baseline {name}: not on this machine, and bench downloads nothing: name a folder, or download it first"
        )
    return folder


def coder_for(subject: Subject) -> str | None:
    """The Qwen2.5-Coder of a 7B's shape and bits, if it is in the Hub's cache; None otherwise, and for random weights."""
    name = CODERS.get(int(subject.work.bits_per_weight))
    alike = dimensions(subject.model.config) == dimensions(SHAPES["7b"].config)
    return name if name and alike and not subject.random and cached(name) else None
