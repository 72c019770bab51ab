"""llama.cpp as a contender, through its C API, which the package llama-cpp-python binds function by function.

It gets the settings that were fastest for it where they were compared (two busy cores with AVX-512, SmolLM2-135M in
Q4_0, three or four rounds each): weights repacked for the processor; flash attention left to it, which beat off in
every phase; for batches a key/value cache of its own for each sequence, which beat a shared one at batch 32 both times
and at batch 8 once in two. Prefill multiplies the head for the last token only, and all sequences decode in one call.

Of one model it runs several quantisations. The file that Millet runs need not be in the format llama.cpp is fastest in.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import os
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from millet.errors import BadRequest, BadWeights, OutOfMemory, PromptTooLong
from millet.models.hub import home

KINDS = {"Q4_1": 3, "Q4_0": 2, "Q8_0": 7, "F16": 1}
"""Quantisations to run, by the number that llama.cpp (and `general.file_type` in a GGUF) knows each by."""

FILE_TYPES = {number: kind for kind, number in KINDS.items()} | {0: "F32", 15: "Q4_K_M", 17: "Q5_K_M", 18: "Q6_K"}

BATCH, MICROBATCH = 2048, 512  # rows that one call may have; rows computed at once (llama.cpp's own defaults)
LONE, MANY = (1, 1024), (32, 256)  # sequences and tokens of each; 256 is the least that llama.cpp keeps for one


def kind_of(path: Path) -> str:
    """The quantisation that a GGUF file says it has."""
    from millet.models.gguf import GGUFFile

    gguf = GGUFFile(path)
    gguf.file.close()
    number = gguf.metadata.get("general.file_type", 0)
    return FILE_TYPES.get(number, f"type-{number}")


def weight_bytes(path: Path) -> int:
    """Bytes of the weights in a GGUF file that a step reads: all but an embedding that is not the head as well."""
    from math import prod

    from millet.kernels.dequantize import FORMATS
    from millet.models.gguf import GGUFFile

    gguf = GGUFFile(path)
    gguf.file.close()
    looked_up = {"token_embd.weight"} if "output.weight" in gguf.tensors else set()
    blocks = {name: (prod(t.shape), FORMATS[t.kind]) for name, t in gguf.tensors.items() if name not in looked_up}
    return sum(values // block.values * block.size for values, block in blocks.values())


def quantised(path: Path, kind: str) -> Path:
    """The model in another quantisation: `path` itself if it has that one, else a file made once and kept."""
    if kind == kind_of(path):
        return path
    stat = path.stat()
    identity = hashlib.sha256(f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}".encode()).hexdigest()[:8]
    final = home() / "bench" / f"{path.stem}-{identity}.{kind}.gguf"
    if not final.exists():
        final.parent.mkdir(parents=True, exist_ok=True)
        partial = final.with_name(f".{final.name}.{os.getpid()}")
        try:
            _quantise(path, partial, kind)
            partial.replace(final)
        finally:
            partial.unlink(missing_ok=True)
    return final


def _quantise(source: Path, target: Path, kind: str) -> None:
    library = importlib.import_module("llama_cpp")
    library.llama_log_set(_silence(library), ctypes.c_void_p(0))
    library.llama_backend_init()
    settings = library.llama_model_quantize_default_params()
    settings.ftype, settings.allow_requantize = KINDS[kind], True
    if library.llama_model_quantize(str(source).encode(), str(target).encode(), ctypes.byref(settings)):
        raise BadWeights(f"llama.cpp could not make {kind} of {source}; leave llama.cpp out of --peers")


@cache
def _silence(library: Any) -> Any:
    """A callback that drops what llama.cpp has to say; kept, as llama.cpp goes on calling it."""
    return library.llama_log_callback(lambda level, text, data: None)


@dataclass
class LlamaCppContender:
    """`variant` is the quantisation, for the name only: what to load is a file that `quantised` made beforehand."""

    variant: str = ""
    runtime: str = "numpy"
    library: Any = None
    contexts: dict[tuple[int, int], Any] = field(default_factory=dict)

    def start(self) -> None:
        self.library = importlib.import_module("llama_cpp")
        self.library.llama_backend_init()

    def load(self, model: str) -> dict[str, Any]:
        """Leaves `weight_bytes` to the function above: reading the header here would bring PyTorch along."""
        library = self.library
        self.model = library.llama_model_load_from_file(model.encode(), library.llama_model_default_params())
        if not self.model:
            raise BadWeights(f"llama.cpp cannot load {model}; leave llama.cpp out of --peers")
        self.vocabulary = library.llama_vocab_n_tokens(library.llama_model_get_vocab(self.model))
        self.contexts = {LONE: self._context(*LONE)}
        self.batch = library.llama_batch_init(BATCH, 0, 1)
        return {
            "path": model,
            "build": library.llama_print_system_info().decode().strip(" |"),
            "cache_itemsize": 2,
            "integers": self.variant != "F16",
        }

    def _context(self, sequences: int, length: int) -> Any:
        settings = self.library.llama_context_default_params()
        settings.n_ctx, settings.n_seq_max, settings.kv_unified = sequences * length, sequences, False
        settings.n_batch, settings.n_ubatch = BATCH, MICROBATCH
        settings.n_threads = settings.n_threads_batch = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
        handle = self.library.llama_init_from_model(self.model, settings)
        if not handle:
            raise OutOfMemory("llama.cpp finds no memory for its cache; close other programs or choose a smaller model")
        return handle

    def threads(self) -> int:
        return int(self.library.llama_n_threads(self.contexts[LONE]))

    def generate(self, prompts: list[list[int]], new_tokens: int) -> list[list[int]]:
        length = len(prompts[0])
        context = self._cleared(len(prompts), length + new_tokens - 1)
        rows = [(token, at, i, at == length - 1) for i, ids in enumerate(prompts) for at, token in enumerate(ids)]
        steps = [self._decode(context, rows)]
        for position in range(length, length + new_tokens - 1):
            steps.append(self._decode(context, [(token, position, i, True) for i, token in enumerate(steps[-1])]))
        return [list(tokens) for tokens in zip(*steps, strict=True)]

    def logits(self, ids: list[int]) -> np.ndarray:
        context = self._cleared(1, len(ids))
        self._run(context, [(token, at, 0, True) for at, token in enumerate(ids)])
        return np.stack([self._row(context, i) for i in range(len(ids))])

    def profile(self, prompts: list[list[int]], new_tokens: int) -> dict[str, float]:
        return {}

    def versions(self) -> dict[str, str]:
        return {"llama-cpp-python": version("llama-cpp-python")}

    def _cleared(self, sequences: int, length: int) -> Any:
        """A context with room for these, empty. That for batches is made with the first: one reply needs no such."""
        room = LONE if sequences == 1 else MANY
        if sequences > room[0] or length > room[1]:
            raise PromptTooLong(f"{sequences} sequences of {length} tokens are more than llama.cpp was given room for")
        handle = self.contexts.get(room) or self.contexts.setdefault(room, self._context(*room))
        self.library.llama_memory_clear(self.library.llama_get_memory(handle), False)
        return handle

    def _decode(self, context: Any, rows: list[tuple[int, int, int, bool]]) -> list[int]:
        self._run(context, rows)
        return [int(self._row(context, i).argmax()) for i, (*_, wanted) in enumerate(rows) if wanted]

    def _run(self, context: Any, rows: list[tuple[int, int, int, bool]]) -> None:
        """One call; a row is a token, its position, its sequence, and whether its logits are wanted."""
        if len(rows) > BATCH:
            raise BadRequest(f"{len(rows)} rows are more than the {BATCH} that llama.cpp was given room for")
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.logits[i] = token, position, wanted
            batch.n_seq_id[i], batch.seq_id[i][0] = 1, sequence
        status = self.library.llama_decode(context, batch)
        if status:
            raise BadRequest(f"llama.cpp could not compute {len(rows)} rows: llama_decode gave {status}")

    def _row(self, context: Any, index: int) -> np.ndarray:
        """Logits of one row of the last call, in llama.cpp's own memory."""
        pointer = self.library.llama_get_logits_ith(context, index)
        return np.ctypeslib.as_array(pointer, (self.vocabulary,))
