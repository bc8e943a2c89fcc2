"""One tensor in as few bytes as its zeros allow: the values that are not zero, and which those are.

NaN counts as a value. Which zeros are -0.0, as products with a mask leave them behind, is kept in a mask of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from sparsewright.export.mask_code import BIT_MASK, GAPS, MaskCode, decode_mask, encode_mask

DENSE, SPARSE = "dense", "sparse"

HALF_TYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}

MOST_EXPANSION = 1024
"""Bytes of a tensor per byte in a file. An emptier tensor takes a bit mask, so that a small file which says that it
holds a huge tensor need not be believed."""

ALWAYS_ALLOWED = 2**20
"""Bytes of a tensor that a file may hold in no bytes at all."""

# What every version of safetensors can hold; others are kept as bytes.
_IN_FILES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
)
_AS_BYTES = (
    *(torch.complex64, torch.complex128, torch.uint16, torch.uint32, torch.uint64),
    *(torch.float8_e4m3fn, torch.float8_e4m3fnuz, torch.float8_e5m2, torch.float8_e5m2fnuz),
)
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (*_IN_FILES, *_AS_BYTES)}
_SIGNED_ZEROS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True)
class StoredTensor:
    """What a file holds of one tensor.

    Attributes:
        entry: plain values: dtype, shape and, unless it is dense, how "mask" (and "negative zeros") are coded.
        parts: "values", and the codes of those masks.
    """

    entry: dict[str, Any]
    parts: dict[str, Tensor]

    @property
    def nbytes(self) -> int:
        """Bytes of the parts."""
        return sum(part.nbytes for part in self.parts.values())


def check_storable(name: str, tensor: Tensor) -> None:
    """Raises TypeError for a tensor without plain values in memory."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta or tensor.dtype not in _DTYPES.values():
        raise TypeError(f"{name} ({tensor.dtype}, {tensor.layout}, {tensor.device}) cannot be stored in a sparse file")


def store(name: str, tensor: Tensor, half: str | None = None, *, signed_zeros: bool = True) -> StoredTensor:
    """Encode a tensor in the way that takes the fewest bytes.

    Args:
        name: for errors.
        tensor: of any shape and device.
        half: "float16" or "bfloat16": round the values of floating-point tensors with two or more dimensions to it.
        signed_zeros: whether -0.0 stays -0.0 where the tensor is not kept dense.

    Raises:
        TypeError: a tensor without plain values in memory (sparse, quantised, on the meta device).
        ValueError: a value is too large for ``half``.
    """
    check_storable(name, tensor)
    values = tensor.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1)
    entry = {"dtype": str(tensor.dtype).removeprefix("torch."), "shape": list(tensor.shape)}
    negative = _negative_zeros(values)
    kept = _any_bit(values) & ~negative
    if half is not None and tensor.dim() >= 2 and tensor.is_floating_point() and tensor.element_size() > 2:
        values = _rounded(name, values, half)
    whole = _in_file(values)
    shaped = whole.reshape(tensor.shape) if whole.dtype == values.dtype else whole
    dense = StoredTensor(entry | {"encoding": DENSE}, {"values": shaped})
    if bool(kept.all()):
        return dense
    sparse = _sparse(entry, values, kept, negative if signed_zeros else None, tensor.nbytes)
    return min(dense, sparse, key=lambda way: way.nbytes)


def claimed_bytes(entry: Mapping[str, Any]) -> int:
    """Memory that the tensor of an entry takes; 0 for another name of a tensor.

    Raises:
        KeyError, TypeError, ValueError: the entry does not describe a tensor.
    """
    if "same as" in entry:
        return 0
    dtype, shape = _described(entry)
    return math.prod(shape) * dtype.itemsize


def most_bytes(parts: Iterable[Tensor]) -> int:
    """Memory that the tensors of a file with these parts may take in all."""
    return MOST_EXPANSION * sum(part.nbytes for part in parts) + ALWAYS_ALLOWED


def restore(entry: Mapping[str, Any], parts: Mapping[str, Tensor]) -> Tensor:
    """Undo :func:`store`; what it allocates is for the caller to bound with :func:`claimed_bytes`.

    Raises:
        KeyError, TypeError, ValueError: the parts do not hold a tensor as the entry describes it.
    """
    dtype, shape = _described(entry)
    size = math.prod(shape)
    if entry["encoding"] == DENSE:
        return _typed(parts["values"].reshape(-1), dtype, size).reshape(shape)
    positions = _positions(entry["mask"], parts["mask"], size)
    result = torch.zeros(size, dtype=dtype)
    _as_integers(result)[positions] = _as_integers(_typed(parts["values"], dtype, len(positions)))
    if "negative zeros" in entry:
        places = _positions(entry["negative zeros"], parts["negative zeros"], size)
        if dtype not in _SIGNED_ZEROS or bool((result[places] != 0).any()):
            raise ValueError("a value that is not zero, or of a type without signed zeros, is to be -0.0")
        result[places] = -torch.zeros(len(places), dtype=dtype)
    return result.reshape(shape)


def _sparse(
    entry: dict[str, Any], values: Tensor, kept: Tensor, negative: Tensor | None, dense_bytes: int
) -> StoredTensor:
    kept_values = _in_file(values[kept])
    least = -(-dense_bytes // MOST_EXPANSION) - kept_values.nbytes
    masks = {"mask": encode_mask(kept, least)}
    if negative is not None and bool(negative.any()):
        masks["negative zeros"] = encode_mask(negative)
    how = {name: {"encoding": mask.encoding, "count": mask.count, "shift": mask.shift} for name, mask in masks.items()}
    codes = {name: mask.code for name, mask in masks.items()}
    return StoredTensor(entry | {"encoding": SPARSE} | how, {"values": kept_values} | codes)


def _described(entry: Mapping[str, Any]) -> tuple[torch.dtype, list[int]]:
    dtype, shape, encoding = entry["dtype"], entry["shape"], entry["encoding"]
    if dtype not in _DTYPES or encoding not in (DENSE, SPARSE):
        raise ValueError(f"there is no type {dtype!r} or no encoding {encoding!r}")
    if not isinstance(shape, list) or len(shape) > 64 or not all(_is_count(length) for length in shape):
        raise ValueError(f"{shape!r} is not a shape")
    if math.prod(length for length in shape if length) >= 2**60:
        raise ValueError(f"{shape!r} is no shape that memory can hold")
    return _DTYPES[dtype], shape


def _positions(how: Mapping[str, Any], code: Tensor, size: int) -> Tensor:
    encoding, count, shift = how["encoding"], how["count"], how["shift"]
    if encoding not in (BIT_MASK, GAPS) or not _is_count(count) or not _is_count(shift):
        raise ValueError(f"{dict(how)} does not say how a mask is coded")
    return decode_mask(MaskCode(encoding, count, shift, code), size)


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**48


def _typed(values: Tensor, dtype: torch.dtype, count: int) -> Tensor:
    """1-D values of a file in their tensor's type."""
    if dtype in _AS_BYTES:
        if values.dtype != torch.uint8 or values.dim() != 1 or values.numel() != count * dtype.itemsize:
            raise ValueError(f"{tuple(values.shape)} of {values.dtype} are not the bytes of {count} values")
        # A view needs the alignment of its type, which bytes in a file need not have.
        return values.clone().view(dtype)
    halved = values.dtype in HALF_TYPES.values() and dtype.is_floating_point and dtype.itemsize > 2
    if values.dtype != dtype and not halved:
        raise ValueError(f"its values are {values.dtype} and should be {dtype}")
    if values.dim() != 1 or values.numel() != count:
        raise ValueError(f"there are {tuple(values.shape)} values for {count} places")
    return values.to(dtype)


def _rounded(name: str, values: Tensor, half: str) -> Tensor:
    rounded = values.to(HALF_TYPES[half])
    if bool((rounded.isinf() & ~values.isinf()).any()):
        largest = float(values[values.isfinite()].abs().max())
        raise ValueError(f"{name} holds {largest:.4g}, which is too large for {half}")
    return rounded


def _in_file(values: Tensor) -> Tensor:
    return values.view(torch.uint8) if values.dtype in _AS_BYTES else values


def _any_bit(values: Tensor) -> Tensor:
    integers = _as_integers(values)
    return integers.ne(0) if integers.dim() == 1 else integers.ne(0).any(dim=1)


def _negative_zeros(values: Tensor) -> Tensor:
    """Flat bool tensor, True where a real floating-point value is -0.0."""
    if values.dtype not in _SIGNED_ZEROS:
        return torch.zeros(len(values), dtype=torch.bool)
    return (values == 0) & values.signbit()


def _as_integers(values: Tensor) -> Tensor:
    """The same memory as integers: one per value, or two where a value has 16 bytes."""
    if values.element_size() == 16:
        return torch.view_as_real(values).view(torch.int64)
    return values.view(_INTEGERS[values.element_size()])
