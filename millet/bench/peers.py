"""The contenders of a benchmark behind one small interface: load a model, generate a fixed number of greedy tokens.

Each runs in a process of its own (worker.py) and imports what it needs there, so that memory and start-up are its own.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol


class Contender(Protocol):
    def start(self) -> None:
        """Import everything that is needed."""
        ...

    def load(self, model: str) -> dict[str, Any]:
        """Make a model ready to generate, in fp32 on the CPU, and say what is to be known about it.

        Millet takes a name or a path, and tells `path` and `config` (of Hugging Face); peers take that path.
        """
        ...

    def generate(self, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        """Exactly `new_tokens` greedy tokens after each prompt, end tokens ignored. All prompts have one length."""
        ...

    def versions(self) -> dict[str, str]: ...


class MilletContender:
    """Millet's engine as it comes, without speculation: what speculation gains depends on the text."""

    def start(self) -> None:
        import millet.engine.engine
        import millet.models.load  # noqa: F401

    def load(self, model: str) -> dict[str, Any]:
        from millet.engine.engine import Engine
        from millet.models.load import load

        self.engine = Engine(load(model, dtype="float32", device="cpu"), speculation="off")
        return {"path": str(self.engine.model.path), "config": self.engine.model.config.hf}

    def generate(self, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        from millet.engine.sampling import Sampling

        sampling = Sampling(temperature=0.0, max_tokens=new_tokens, ignore_eos=True)
        return [samples[0].token_ids for samples in self.engine.generate(prompts, sampling)]

    def versions(self) -> dict[str, str]:
        from millet import __version__

        return {"millet": __version__}


class TransformersContender:
    """transformers on its best ordinary path: fp32, SDPA attention, its own key/value cache, unpadded batches."""

    model: Any

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
        return {}

    def generate(self, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        import torch

        ids_BT = torch.tensor(prompts)
        with torch.inference_mode():
            out_BT = self.model.generate(ids_BT, attention_mask=torch.ones_like(ids_BT), max_new_tokens=new_tokens)
        new: list[list[int]] = out_BT[:, ids_BT.shape[1] :].tolist()
        return new

    def versions(self) -> dict[str, str]:
        return {"transformers": version("transformers")}


PEERS: dict[str, type[Contender]] = {"transformers": TransformersContender}
"""By the name that is also their package's."""

CONTENDERS: dict[str, type[Contender]] = {"millet": MilletContender, **PEERS}
