"""Packed weights kept on disk, so that a model whose packing takes long is packed only once.

A file holds the matrices of one model in the layout of the native kernels, and is mapped into memory: the next load
takes no time, and what several processes share is in memory once. It is an aid, not a copy anybody relies on: one that
does not fit its model any more, or is damaged in its header, is made again; one that cannot be written is left out.

Layout: the length of a JSON header (8 bytes, little endian), the header, then the matrices at multiples of 64.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from pathlib import Path

from millet.errors import MilletError
from millet.kernels.matrix import Matrix, matrix_bytes
from millet.kernels.native.abi import Format
from millet.models.hub import home
from millet.models.mapped_file import MappedFile

LAYOUT = 1  # changes when native/src/layout.h does
ALIGNMENT = 64
WORTHWHILE = 0.5  # seconds of packing from which on the result is kept
SPARE_DISK = 2 << 30  # bytes that stay free


def open_packed(model: Path, formats: Mapping[str, Format], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, Matrix]:
    """The matrices that were kept for this model file and these formats; none where there are none that fit."""
    path = _place(model, formats)
    if not path.exists():
        return {}
    try:
        file = MappedFile(path)
        length = int.from_bytes(file.buffer[:8], "little")
        offsets = json.loads(file.buffer[8 : 8 + length])
        found = {}
        for name, format in formats.items():
            outputs, inputs = shapes[name]
            start, size = offsets[name], matrix_bytes(format, outputs, inputs)
            if start % ALIGNMENT or start + size > len(file.buffer):
                return {}
            found[name] = Matrix(format, outputs, inputs, file.bytes[start : start + size])
        return found
    except (MilletError, ValueError, KeyError, TypeError):
        return {}


def keep_packed(model: Path, matrices: Mapping[str, Matrix]) -> None:
    """Write the matrices for the next load, whole or not at all; older ones of the same model file go."""
    path = _place(model, {name: matrix.format for name, matrix in matrices.items()})
    offsets, position = {}, 0
    for name, matrix in matrices.items():
        offsets[name] = position
        position += -(-matrix.nbytes // ALIGNMENT) * ALIGNMENT
    # Offsets count from the end of the header, whose length depends on them: leave room for the largest.
    room = -(-(8 + len(json.dumps(offsets)) + 20 * len(offsets)) // ALIGNMENT) * ALIGNMENT
    header = json.dumps({name: room + offset for name, offset in offsets.items()}).encode()
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with contextlib.suppress(OSError):  # no room, or a home that cannot be written to: packed again next time
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove(path.parent, f".{path.name}.*")
        if shutil.disk_usage(path.parent).free < room + position + SPARE_DISK:
            return
        try:
            with open(temporary, "wb") as file:
                file.write((len(header).to_bytes(8, "little") + header).ljust(room, b"\0"))
                for matrix in matrices.values():
                    file.write(matrix.memory.numpy().data)
                    file.write(b"\0" * (-matrix.nbytes % ALIGNMENT))
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        _remove(path.parent, f"{path.name.partition('-')[0]}-*", but=path)


def _place(model: Path, formats: Mapping[str, Format]) -> Path:
    """Named by the model's path, then by everything that the content depends on."""
    model = model.resolve()
    files = sorted(model.glob("*.safetensors")) if model.is_dir() else [model]
    states = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    content = json.dumps([LAYOUT, states, sorted((name, int(format)) for name, format in formats.items())])
    first, second = (hashlib.sha256(text.encode()).hexdigest()[:16] for text in (str(model), content))
    return home() / "packed" / f"{first}-{second}"


def _remove(folder: Path, pattern: str, but: Path | None = None) -> None:
    for path in folder.glob(pattern):
        if path != but:
            path.unlink(missing_ok=True)
