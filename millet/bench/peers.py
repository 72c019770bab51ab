"""The contenders of a benchmark behind one small interface: load a model, generate a fixed number of greedy tokens.

Each runs in a process of its own (worker.py) and imports what it needs there, so that memory and start-up are its own.
A contender's name is that of a program, and where that program runs in several ways `:` and which: `millet:fp32`,
`llama.cpp:Q4_0`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from millet.bench.llamacpp import LlamaCppContender

if TYPE_CHECKING:
    from millet.models.model import Model


class Contender(Protocol):
    runtime: str
    """What every program of this kind imports: memory up to there is not counted as the contender's."""

    def start(self) -> None:
        """Import everything that is needed."""
        ...

    def load(self, model: str) -> dict[str, Any]:
        """Make a model ready to generate, and say what is to be known about it.

        Millet takes a name or a path, and tells `path`, `config` (of Hugging Face) and `prompts` (fidelity.py's, as
        ids); peers take that path. All tell `weight_bytes`, those of the weights read for one token (or, for a GGUF
        file that runs as it is, its `path`), and `cache_itemsize`, the bytes of a number in the key/value cache; and
        whether the `native` kernels compute it, and in `integers`.
        """
        ...

    def generate(self, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        """Exactly `new_tokens` greedy tokens after each prompt, end tokens ignored. All prompts have one length."""
        ...

    def logits(self, ids: list[int]) -> np.ndarray:
        """What the model says after each token, fp32 [len(ids), vocabulary]."""
        ...

    def profile(self, prompts: list[list[int]], new_tokens: int) -> dict[str, float]:
        """Seconds of `generate` by operation, if the program can tell."""
        ...

    def threads(self) -> int: ...

    def versions(self) -> dict[str, str]: ...


@dataclass
class MilletContender:
    """Millet's engine, without speculation: what speculation gains depends on the text.

    variant: "" as `millet.load` gives it to a person, "fp32" in fp32 on the CPU.
    """

    variant: str = ""
    runtime: str = "torch"

    def start(self) -> None:
        import millet.engine.engine
        import millet.models.load  # noqa: F401

    def load(self, model: str) -> dict[str, Any]:
        from millet.engine.engine import Engine
        from millet.models.load import load

        loaded = load(model, dtype="float32", device="cpu") if self.variant == "fp32" else load(model)
        self.engine = Engine(loaded, speculation="off")
        return {
            "path": str(loaded.path),
            "config": loaded.config.hf,
            "prompts": _real_prompts(loaded),
            "weight_bytes": loaded.network.weight_bytes,
            "cache_itemsize": loaded.cache_dtype.itemsize,
            "native": loaded.native,
            "integers": loaded.quantised,
        }

    def generate(self, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        from millet.engine.sampling import Sampling

        sampling = Sampling(temperature=0.0, max_tokens=new_tokens, ignore_eos=True)
        return [samples[0].token_ids for samples in self.engine.generate(prompts, sampling)]

    def logits(self, ids: list[int]) -> np.ndarray:
        logits: np.ndarray = self.engine.model.logits(ids).cpu().numpy()
        return logits

    def profile(self, prompts: list[list[int]], new_tokens: int) -> dict[str, float]:
        """Seconds by operation of the native kernels; nothing where they are not in use."""
        from millet.engine.forward import NativeForward

        forward = self.engine._runner.forward
        if not isinstance(forward, NativeForward):
            return {}
        forward.main.forget_profile()
        forward.main.profiling = True
        self.generate(prompts, new_tokens)
        forward.main.profiling = False
        return forward.main.profile()

    def threads(self) -> int:
        return _torch_threads()

    def versions(self) -> dict[str, str]:
        from millet import __version__

        return {"millet": __version__}


def _real_prompts(model: Model) -> list[list[int]]:
    from millet.bench.fidelity import LENGTH, texts

    return [model.tokenizer.encode(text)[:LENGTH] for text in texts()]


@dataclass
class TransformersContender:
    """transformers on its best ordinary path: fp32, SDPA attention, its own key/value cache, unpadded batches."""

    variant: str = ""
    runtime: str = "torch"
    model: Any = None

    def start(self) -> None:
        transformers = importlib.import_module("transformers")
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        _ = transformers.AutoModelForCausalLM, transformers.LlamaForCausalLM  # imported on first touch

    def load(self, model: str) -> dict[str, Any]:
        import torch

        transformers, path = importlib.import_module("transformers"), Path(model)
        folder, gguf = (path.parent, {"gguf_file": path.name}) if path.suffix == ".gguf" else (path, {})
        self.model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, **gguf, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True
        ).eval()
        self.model.generation_config = transformers.GenerationConfig(do_sample=False, use_cache=True, pad_token_id=0)
        looked_up = 0 if self.model.config.tie_word_embeddings else self.model.get_input_embeddings().weight.nbytes
        weights = sum(parameter.nbytes for parameter in self.model.parameters()) - looked_up
        return {"weight_bytes": weights, "cache_itemsize": 4}

    def generate(self, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        import torch

        ids_BT = torch.tensor(prompts)
        with torch.inference_mode():
            out_BT = self.model.generate(ids_BT, attention_mask=torch.ones_like(ids_BT), max_new_tokens=new_tokens)
        new: list[list[int]] = out_BT[:, ids_BT.shape[1] :].tolist()
        return new

    def logits(self, ids: list[int]) -> np.ndarray:
        import torch

        with torch.inference_mode():
            logits: np.ndarray = self.model(torch.tensor([ids])).logits[0].numpy()
        return logits

    def profile(self, prompts: list[list[int]], new_tokens: int) -> dict[str, float]:
        return {}

    def threads(self) -> int:
        return _torch_threads()

    def versions(self) -> dict[str, str]:
        return {"transformers": version("transformers")}


def _torch_threads() -> int:
    import torch

    return torch.get_num_threads()


@dataclass(frozen=True, slots=True)
class Peer:
    """The module and the distribution it comes in, and which of Millet's contenders it is compared with."""

    module: str
    package: str
    rival: str

    @property
    def installed(self) -> bool:
        return find_spec(self.module) is not None


PEERS = {
    # Both compute in fp32: like with like.
    "transformers": Peer("transformers", "transformers", "millet:fp32"),
    # What a person who chose the other program would get.
    "llama.cpp": Peer("llama_cpp", "llama-cpp-python", "millet"),
}

CONTENDERS: dict[str, Callable[[str], Contender]] = {
    "millet": MilletContender,
    "transformers": TransformersContender,
    "llama.cpp": LlamaCppContender,
}


def installed() -> list[str]:
    """The peers that are on this machine."""
    return [name for name, peer in PEERS.items() if peer.installed]


def program(name: str) -> str:
    """Whose contender `name` is."""
    return name.partition(":")[0]


def contender(name: str) -> Contender:
    return CONTENDERS[program(name)](name.partition(":")[2])
