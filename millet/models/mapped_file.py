"""A weight file mapped into memory, and values read from it in pieces.

Mapping makes a file's bytes appear as a tensor without reading them first. The pages that a read touches count as this
process's memory until they are given back, so every read gives its pages back: whatever the file's size, loading holds
one piece of it beside the weights.
"""

import contextlib
import mmap
import warnings
from pathlib import Path

import torch
from torch import Tensor

from millet.errors import BadWeights, UnknownModel
from millet.kernels.dequantize import FORMATS, dequantize

PIECE = 1 << 18  # values decoded at a time: 1 MB of fp32, so that temporaries stay in the processor's cache


class MappedFile:
    """`bytes` is the whole file, uint8 and read-only. Raises UnknownModel or BadWeights if there is nothing to read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with open(path, "rb") as file:
                self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except FileNotFoundError as error:
            raise UnknownModel(f"there is no file {path}; check the path") from error
        except ValueError as error:  # a file of no bytes cannot be mapped
            raise BadWeights(f"{path} is empty; pull or copy it again") from error
        except OSError as error:
            raise BadWeights(f"cannot read {path}: {error.strerror}; check the file and its permissions") from error
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch warns that it cannot protect read-only memory
            self.bytes = torch.frombuffer(self._map, dtype=torch.uint8)

    @property
    def buffer(self) -> mmap.mmap:
        """The bytes for `struct`, slicing and decoding."""
        return self._map

    def release(self, start: int, stop: int) -> None:
        """Give back the memory behind a range that will not be read again soon (where the system can)."""
        if hasattr(mmap, "MADV_DONTNEED"):
            start -= start % mmap.PAGESIZE
            self._map.madvise(mmap.MADV_DONTNEED, start, min(stop, len(self._map)) - start)

    def close(self) -> None:
        """Drop the mapping. It goes when the last tensor that looks into it does."""
        self.bytes = torch.empty(0, dtype=torch.uint8)
        with contextlib.suppress(BufferError):
            self._map.close()


def read_values(file: MappedFile, start: int, kind: str, out: Tensor) -> None:
    """Decode the values of GGUF type `kind` at byte `start` into `out`, in the order of `out`'s indices.

    `out` may have any floating type, device and strides: a transposed view stores the values transposed. Its slices
    along the first dimension must be whole blocks of the type.
    """
    block = FORMATS[kind]
    out = out if out.dim() > 1 else out[None]
    direct = out.is_contiguous() and out.dtype == torch.float32 and out.device.type == "cpu"
    rows = max(1, PIECE // out[0].numel())
    buffer = torch.empty(0 if direct else min(rows, len(out)) * out[0].numel())
    stop = start
    for first in range(0, len(out), rows):
        part = out[first : first + rows]
        begin, stop = stop, stop + part.numel() // block.values * block.size
        values = part if direct else buffer[: part.numel()].view(part.shape)
        dequantize(file.bytes[begin:stop], kind, values)
        if not direct:
            part.copy_(values)
        file.release(start, stop)  # from the very start: the system may have mapped earlier pages again in passing
