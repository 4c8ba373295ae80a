"""The alternative: mlx-lm's own generation, one token after the other.

What it runs is a Qwen2 of the measured network's shape, made of that network's own weights: mlx-lm's layers
are put around them, so nothing is held twice and the quantization is the same layer by layer. A forward of it
takes what one of any Qwen2 of this shape takes; what it writes means nothing. Or it is a checkpoint of
mlx-lm's own, such as Qwen2.5-Coder, where one is on this machine.
"""

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_diffucoder.config import GenerationConfig
from mlx_diffucoder.errors import BenchError
from mlx_diffucoder.generation import wired_memory
from mlx_diffucoder.loading import cached

from .decoders import BASELINE, Decoder, Run
from .roofline import Work
from .shapes import SHAPES, dimensions
from .subjects import Measured, check_fits, found_here, without_embeddings

CODERS = {
    4: "mlx-community/Qwen2.5-Coder-7B-Instruct-4bit",
    8: "mlx-community/Qwen2.5-Coder-7B-Instruct-8bit",
    16: "Qwen/Qwen2.5-Coder-7B-Instruct",
}
"""What a DiffuCoder-7B of so many bits is compared with, where it is in the Hub's cache."""
SAME = "same weights"
"""The name of a peer that is made of the measured network."""
CHUNK = 2048  # positions that mlx-lm encodes of a prompt at once


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A network as mlx-lm runs it.

    Attributes:
        tokenizer: mlx-lm's own; None where the weights are the measured network's, and what is written means
            nothing.
        work: the weights that a forward reads, for the roofline.
    """

    name: str
    model: Any
    tokenizer: Any
    work: Work

    @property
    def ends(self) -> bool:
        """Whether it ends its answers itself, or writes as many tokens as it is told to."""
        return self.tokenizer is not None

    def prompt(self, text: str, ids: list[int], config: GenerationConfig) -> list[int]:
        """The ids of a prompt: by its own chat template, or those given."""
        if not self.ends:
            return ids
        if config.raw or self.tokenizer.chat_template is None:
            return list(self.tokenizer.encode(text))
        system = [{"role": "system", "content": config.system}] if config.system else []
        return list(self.tokenizer.apply_chat_template([*system, {"role": "user", "content": text}], add_generation_prompt=True))

    def run(self, ids: list[int], tokens: int) -> Run:
        """Write `tokens`, or up to and with the end, greedily."""
        ends = self.tokenizer.eos_token_ids if self.ends else ()
        mx.reset_peak_memory()
        written, first = 0, 0.0
        with wired_memory():
            start = time.perf_counter()
            for token in generated(self.model, ids, tokens):
                first = first or time.perf_counter() - start
                written += 1
                if token in ends or written == tokens:
                    break
            seconds = time.perf_counter() - start
            mx.synchronize()  # one more token is under way: it belongs to nobody's time
        chunks = [min(CHUNK, len(ids) - 1 - at) for at in range(0, len(ids) - 1, CHUNK)]
        return Run(
            seconds=seconds,
            first=first,
            nfe=len(chunks) + written,
            positions=sum(chunks) + written,
            useful_tokens=written,
            forwards=[*((1, float(chunk)) for chunk in chunks), (written, 1.0)],
            peak_memory_bytes=mx.get_peak_memory(),
        )


def autoregressive(peer: Peer, prompts: list[list[int]], tokens: list[int]) -> Decoder:
    """mlx-lm as a decoder of prompts: so many tokens of each, or up to its own end."""

    def run(number: int) -> Run:
        return peer.run(prompts[number], tokens[number])

    lengths = [len(ids) for ids in prompts]
    name = f"mlx-lm, {peer.name}"
    return Decoder(name=name, kind=BASELINE, rate=None, work=peer.work, prompts=lengths, run=run, warm_up=run)


def generated(model: Any, ids: list[int], tokens: int) -> Iterator[int]:
    """mlx-lm's tokens, one after the other."""
    from mlx_lm.generate import generate_step

    for token, _ in generate_step(prompt=mx.array(ids), model=model, max_tokens=tokens):
        yield int(token)


def same_weights(measured: Measured) -> Peer:
    """mlx-lm's Qwen2 of the measured network's shape, around its weights."""
    from mlx_lm.models.qwen2 import Model, ModelArgs

    config: dict[str, Any] = {**asdict(measured.model.config), "model_type": "qwen2"}
    model = Model(ModelArgs.from_dict(config))
    model.update_modules(measured.model.leaf_modules())
    model.eval()
    return Peer(name=SAME, model=model, tokenizer=None, work=measured.forwarded)


def coder(name: str, beside: Measured) -> Peer:
    """A checkpoint that mlx-lm itself loads; nothing is downloaded.

    Raises:
        BenchError: it is not on this machine, is not mlx-lm's, or does not fit beside the measured network.
    """
    folder = folder_of(name)
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    check_fits(f"--peer {name} beside {beside.name}", size + beside.work.bytes)
    from mlx_lm.utils import compute_bits_per_weight, get_total_parameters, load

    try:
        model, tokenizer = load(path_or_hf_repo=str(folder))
    except Exception as error:  # whatever its loaders and those of the tokenizers raise
        raise BenchError(f"--peer {name}: mlx-lm cannot load it ({' '.join(str(error).split())[:200]})") from None
    work = Work(parameters=get_total_parameters(model=model), bits_per_weight=compute_bits_per_weight(model=model))
    return Peer(name=name, model=model, tokenizer=tokenizer, work=without_embeddings(model, work))


def folder_of(name: str) -> Path:
    """Where a peer is on this machine. Raises `BenchError` where it is not."""
    folder = found_here(name)
    if folder is None:
        raise BenchError(f"--peer {name}: not on this machine, and bench downloads none: name a folder, or fetch it before")
    return folder


def coder_for(measured: Measured) -> str | None:
    """The Qwen2.5-Coder to compare a checkpoint with: of the 7B's shape and its bits, and in the Hub's cache."""
    name = CODERS.get(int(measured.work.bits_per_weight))
    alike = dimensions(measured.model.config) == dimensions(SHAPES["7b"])
    return name if name and alike and not measured.random and cached(name) else None
