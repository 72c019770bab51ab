"""The C interface of the native kernels, field by field as in src/abi.h and src/sample.h, and its functions typed."""

from __future__ import annotations

import ctypes
from ctypes import POINTER, Structure, c_double, c_float, c_int32, c_int64, c_void_p
from enum import IntEnum
from functools import cache

from millet.kernels.native.library import library


class Rows(Structure):
    """Row t begins at data + 4 * t * stride."""

    _fields_ = [("data", c_void_p), ("stride", c_int64)]


class Matrix(Structure):
    _fields_ = [
        ("data", c_void_p),
        ("format", c_int32),
        ("outputs", c_int32),
        ("inputs", c_int32),
        ("reserved", c_int32),
    ]


class Product(Structure):
    _fields_ = [("matrix", Matrix), ("x", Rows), ("y", Rows), ("bias", c_void_p), ("add", Rows)]


class Op(Structure):
    _fields_ = [
        ("code", c_int32),
        ("num_products", c_int32),
        ("products", POINTER(Product)),
        ("inputs", Rows * 3),
        ("outputs", Rows * 2),
        ("weight", c_void_p * 2),
        ("n", c_int64 * 8),
        ("f", c_float * 4),
    ]


class Span(Structure):
    _fields_ = [("row", c_int32), ("length", c_int32), ("start", c_int32), ("table", c_int32)]


class Batch(Structure):
    _fields_ = [
        ("rows", c_int32),
        ("num_spans", c_int32),
        ("num_sampled", c_int32),
        ("num_threads", c_int32),
        ("ids", c_void_p),
        ("positions", c_void_p),
        ("spans", c_void_p),
        ("tables", c_void_p),
        ("sampled", c_void_p),
    ]


class Sample(Structure):
    _fields_ = [
        ("logits", c_void_p),
        ("choice", c_void_p),
        ("size", c_int64),
        ("temperature", c_float),
        ("top_k", c_int32),
        ("top_p", c_double),
        ("min_p", c_double),
        ("uniform", c_double),
        ("want_logprob", c_int32),
        ("token", c_int32),
        ("logprob", c_float),
        ("reserved", c_int32),
    ]


class Code(IntEnum):
    """What an op does; src/abi.h says with what."""

    EMBED = 0
    NORM = 1
    PRODUCTS = 2
    TURN = 3
    ROTATE = 4
    ATTEND = 5
    SWIGLU = 6
    ADD = 7
    COPY = 8
    PICK = 9
    ROUTE = 10
    EXPERTS = 11


class Prepare(IntEnum):
    """What PRODUCTS does to a row first (src/rows.h)."""

    NOTHING = 0
    NORM = 1
    SWIGLU = 2


class Format(IntEnum):
    F32 = 0
    F16 = 1
    Q8 = 2
    Q4_0 = 3
    Q4_1 = 4


@cache
def functions() -> ctypes.CDLL:
    """The library with its functions' types set. Only where `library()` found one."""
    lib = library()
    assert lib is not None
    lib.millet_matrix_bytes.argtypes = [c_int32, c_int64, c_int64]
    lib.millet_matrix_bytes.restype = c_int64
    lib.millet_pack.argtypes = [c_void_p, c_int64, POINTER(Matrix), c_int32]
    lib.millet_pack.restype = None
    lib.millet_pack_gguf.argtypes = [c_void_p, c_int64, c_void_p, POINTER(Matrix), c_int32]
    lib.millet_pack_gguf.restype = None
    lib.millet_unpack.argtypes = [POINTER(Matrix), c_void_p, c_int32, c_int32]
    lib.millet_unpack.restype = None
    lib.millet_run.argtypes = [POINTER(Op), c_int32, POINTER(Batch), c_void_p]
    lib.millet_run.restype = c_int32
    lib.millet_sample.argtypes = [POINTER(Sample), c_int32, c_int32]
    lib.millet_sample.restype = c_int32
    return lib


def address(array: ctypes.Array) -> int:
    """Where a ctypes array lies; the caller keeps it alive."""
    return ctypes.addressof(array)
