"""Compact files of sparse networks: exact, small, and safe to read."""

from __future__ import annotations

import json
import math
import resource
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from typer.testing import CliRunner

from sparsewright.cli import app
from sparsewright.export.gap_code import GapCode, decode_gaps, encode_gaps
from sparsewright.export.mask_code import decode_mask, encode_mask
from sparsewright.export.sparse import (
    METADATA_KEY,
    SparseFileError,
    load_sparse,
    read_sparse_metadata,
    save_sparse,
)
from sparsewright.export.sparse_tensor import ALWAYS_ALLOWED, MOST_EXPANSION

DTYPES = (
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.complex64, torch.complex128),
    *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    *(torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2),
)


def pruned(shape: tuple[int, ...], density: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(shape, generator=generator) < density
    return torch.where(kept, torch.randn(shape, generator=generator), torch.zeros(()))


def same_bits(left: Tensor, right: Tensor) -> bool:
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    return torch.equal(*(tensor.contiguous().reshape(-1).view(torch.uint8) for tensor in (left, right)))


@given(st.integers(0, 3000), st.floats(0, 1), st.integers(0, 2**32))
def test_positions_come_back_from_their_code(size: int, density: float, seed: int) -> None:
    mask = torch.rand(size, generator=torch.Generator().manual_seed(seed)) < density
    expected = mask.nonzero().reshape(-1)
    assert torch.equal(decode_gaps(encode_gaps(mask), size), expected)
    assert torch.equal(decode_mask(encode_mask(mask), size), expected)


@pytest.mark.parametrize("density", [0.001, 0.01, 0.02, 0.05, 0.1, 0.2])
def test_the_code_of_gaps_is_within_four_per_cent_of_the_entropy(density: float) -> None:
    size = 400_000
    mask = torch.rand(size, generator=torch.Generator().manual_seed(1)) < density
    share = float(mask.double().mean())
    entropy = -share * math.log2(share) - (1 - share) * math.log2(1 - share)
    assert 8 * encode_gaps(mask).code.numel() <= 1.04 * entropy * size


@given(st.integers(-2, 70), st.integers(-1, 40), st.integers(0, 200), st.binary(max_size=40))
def test_any_bytes_as_code_are_positions_or_an_error(shift: int, count: int, size: int, code: bytes) -> None:
    bits = torch.tensor(list(code), dtype=torch.uint8)
    try:
        positions = decode_gaps(GapCode(shift, count, bits), size)
    except ValueError:
        return
    assert len(positions) == count
    assert bool((positions.diff() > 0).all())
    assert not count or 0 <= int(positions[0]) <= int(positions[-1]) < size


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(DTYPES), st.lists(st.integers(0, 9), max_size=4), st.floats(0, 1)), min_size=1),
    st.integers(0, 2**32),
)
def test_any_state_dict_comes_back_bit_by_bit(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[tuple[torch.dtype, list[int], float]], seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, Tensor] = {}
    for index, (dtype, shape, density) in enumerate(kinds):
        # Random bytes: NaN of every kind, both infinities, both zeros.
        size = math.prod(shape) * dtype.itemsize
        raw = torch.randint(0, 2 if dtype == torch.bool else 256, (size,), generator=generator, dtype=torch.uint8)
        kept = torch.rand(math.prod(shape), generator=generator) < density
        values = raw.view(dtype) if size else torch.zeros(0, dtype=dtype)
        raw_rows = values.view(torch.uint8).reshape(len(kept), -1) if size else None
        if raw_rows is not None:
            raw_rows[~kept] = 0
        tensors[f"layer{index}.weight::{'values' if index % 2 else 'x'}"] = values.reshape(shape)
    file = tmp_path_factory.mktemp("sparse") / "any.sparse"
    save_sparse(tensors, file)
    loaded = load_sparse(file)
    assert list(loaded) == list(tensors)
    assert all(same_bits(loaded[name], tensors[name]) for name in tensors)


def test_negative_zeros_come_back_unless_they_may_be_dropped(tmp_path: Path) -> None:
    weight = pruned((200, 100), 0.1)
    weight = torch.where(weight == 0, torch.full((), -0.0), weight)
    file = tmp_path / "a.sparse"
    save_sparse({"weight": weight}, file)
    assert same_bits(load_sparse(file)["weight"], weight)
    large = file.stat().st_size
    save_sparse({"weight": weight}, file, signed_zeros=False)
    assert torch.equal(load_sparse(file)["weight"], weight)
    assert not load_sparse(file)["weight"][weight == 0].signbit().any()
    assert file.stat().st_size < large


def test_tied_tensors_are_stored_once_and_stay_tied(tmp_path: Path) -> None:
    weight = pruned((300, 200), 0.5)
    save_sparse({"first": weight, "second": weight}, tmp_path / "two.sparse")
    save_sparse({"first": weight}, tmp_path / "one.sparse")
    loaded = load_sparse(tmp_path / "two.sparse")
    assert loaded["first"] is loaded["second"]
    assert (tmp_path / "two.sparse").stat().st_size < 1.02 * (tmp_path / "one.sparse").stat().st_size


@pytest.mark.parametrize("sparsity", [0.9, 0.95, 0.98])
def test_resnet50_is_within_ten_per_cent_of_the_bound(tmp_path: Path, sparsity: float) -> None:
    from torchvision.models import resnet50

    with torch.device("meta"):
        shapes = {name: tuple(tensor.shape) for name, tensor in resnet50().state_dict().items()}
    tensors = {
        name: pruned(shape, 1 - sparsity, seed) if len(shape) > 1 else torch.rand(shape) + 0.5
        for seed, (name, shape) in enumerate(shapes.items())
    }
    file = tmp_path / "resnet50.sparse"
    save_sparse(tensors, file)
    bound = 0.0
    for tensor in tensors.values():
        share = float(tensor.count_nonzero()) / tensor.numel()
        entropy = -sum(part * math.log2(part) for part in (share, 1 - share) if part)
        bound += tensor.numel() * (32 * share + entropy) / 8
    assert file.stat().st_size <= 1.1 * bound
    loaded = load_sparse(file)
    assert all(same_bits(loaded[name], tensors[name]) for name in tensors)


def test_the_same_tensors_give_the_same_bytes_and_metadata_come_back(tmp_path: Path) -> None:
    tensors = {"weight": pruned((40, 30), 0.2), "bias": torch.ones(40)}
    for name in ("a", "b"):
        save_sparse(tensors, tmp_path / f"{name}.sparse", metadata={"recipe": "digits", "sizes": [1, 2]})
    assert (tmp_path / "a.sparse").read_bytes() == (tmp_path / "b.sparse").read_bytes()
    assert read_sparse_metadata(tmp_path / "a.sparse") == {"recipe": "digits", "sizes": [1, 2]}


def test_any_reader_of_safetensors_opens_it_and_the_header_says_how(tmp_path: Path) -> None:
    weight = pruned((40, 30), 0.05)
    save_sparse({"weight": weight, "bias": torch.ones(40)}, tmp_path / "a.sparse")
    with safetensors.safe_open(tmp_path / "a.sparse", framework="pt") as content:
        header = json.loads(content.metadata()[METADATA_KEY])
        parts = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    assert "row-major" in header["about"]
    assert torch.equal(parts["bias"], torch.ones(40))
    assert torch.equal(parts["weight::values"], weight[weight != 0])


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_half_values_are_rounded_weights_in_their_own_type(tmp_path: Path, half: str) -> None:
    weight, bias = pruned((50, 40), 0.1), torch.randn(50)
    save_sparse({"weight": weight, "bias": bias}, tmp_path / "full.sparse")
    save_sparse({"weight": weight, "bias": bias}, tmp_path / "half.sparse", values=half)
    loaded = load_sparse(tmp_path / "half.sparse")
    assert same_bits(loaded["weight"], weight.to(getattr(torch, half)).float())
    assert same_bits(loaded["bias"], bias)
    assert (tmp_path / "half.sparse").stat().st_size < (tmp_path / "full.sparse").stat().st_size


def test_what_cannot_be_stored_is_named(tmp_path: Path) -> None:
    file = tmp_path / "a.sparse"
    with pytest.raises(ValueError, match=r"layer\.weight holds 1e\+06, which is too large for float16"):
        save_sparse({"layer.weight": torch.full((2, 2), 1e6)}, file, values="float16")
    with pytest.raises(ValueError, match=r"values must be one of .*got 'int8'"):
        save_sparse({"a": torch.ones(2)}, file, values="int8")
    with pytest.raises(ValueError, match="no tensors"):
        save_sparse({}, file)
    wrong: dict[str, Any] = {"a": [1, 2]}
    with pytest.raises(TypeError, match="a must be a tensor, got list"):
        save_sparse(wrong, file)
    with pytest.raises(TypeError, match=r"a .*sparse_coo.* cannot be stored"):
        save_sparse({"a": torch.eye(3).to_sparse()}, file)
    assert not file.exists()


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load_sparse(tmp_path / "none.sparse")
    other = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"a": torch.ones(2)}, other)
    with pytest.raises(SparseFileError, match="is not a sparse file"):
        load_sparse(other)
    (tmp_path / "text").write_text("hello")
    with pytest.raises(SparseFileError, match="damaged or not a safetensors file"):
        load_sparse(tmp_path / "text")


@pytest.fixture
def little_memory() -> Iterator[None]:
    """Two gigabytes on top of what is in use, so that a huge allocation fails the test and not the machine."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**31, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.fixture(scope="module")
def a_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    tied = pruned((64, 33), 0.05)
    signed = torch.where(torch.rand(40, 40) < 0.4, torch.randn(40, 40), torch.full((), -0.0)).bfloat16()
    tensors = {"a": tied, "b": torch.randn(7), "c": torch.tensor(3), "d": signed, "e": torch.zeros(0, 3)}
    tensors |= {"f": torch.randn(4, dtype=torch.complex128), "g": torch.zeros(500, 500), "tied": tied}
    file = tmp_path_factory.mktemp("file") / "a.sparse"
    save_sparse(tensors, file)
    return file.read_bytes()


def outcome(file: Path) -> dict[str, Tensor] | None:
    """The tensors of a file, or None where it is refused; anything else fails."""
    try:
        return load_sparse(file)
    except SparseFileError:
        return None


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="limits memory as Linux does")
class TestHostileFiles:
    @pytest.fixture(autouse=True)
    def limits(self, little_memory: None) -> None:
        pass

    @settings(max_examples=150, deadline=None)
    @given(st.data())
    def test_flipped_bits_are_found(
        self, tmp_path_factory: pytest.TempPathFactory, a_file: bytes, data: st.DataObject
    ) -> None:
        start = 8 + int.from_bytes(a_file[:8], "little")
        damaged = bytearray(a_file)
        damaged[data.draw(st.integers(start, len(a_file) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        file = tmp_path_factory.mktemp("flipped") / "a.sparse"
        file.write_bytes(damaged)
        assert outcome(file) is None

    @settings(max_examples=300, deadline=None)
    @given(st.data())
    def test_flipped_bits_of_the_header_are_found_or_change_nothing(
        self, tmp_path_factory: pytest.TempPathFactory, a_file: bytes, data: st.DataObject
    ) -> None:
        end = 8 + int.from_bytes(a_file[:8], "little")
        damaged = bytearray(a_file)
        damaged[data.draw(st.integers(0, end - 1))] ^= 1 << data.draw(st.integers(0, 7))
        folder = tmp_path_factory.mktemp("flipped")
        (folder / "a.sparse").write_bytes(a_file)
        (folder / "b.sparse").write_bytes(damaged)
        expected, found = load_sparse(folder / "a.sparse"), outcome(folder / "b.sparse")
        assert found is None or found.keys() == expected.keys()
        assert found is None or all(same_bits(found[name], expected[name]) for name in expected)

    @settings(max_examples=80, deadline=None)
    @given(st.data())
    def test_cut_files_are_refused(
        self, tmp_path_factory: pytest.TempPathFactory, a_file: bytes, data: st.DataObject
    ) -> None:
        file = tmp_path_factory.mktemp("cut") / "a.sparse"
        file.write_bytes(a_file[: data.draw(st.integers(0, len(a_file) - 1))])
        assert outcome(file) is None

    @settings(max_examples=300, deadline=None)
    @given(st.data())
    def test_changed_headers_are_refused_or_harmless(
        self, tmp_path_factory: pytest.TempPathFactory, a_file: bytes, data: st.DataObject
    ) -> None:
        length = int.from_bytes(a_file[:8], "little")
        outer = json.loads(a_file[8 : 8 + length])
        inner = json.loads(outer["__metadata__"][METADATA_KEY])
        change(data, inner)
        inner["checksum"] = checksum_of(a_file, inner)
        outer["__metadata__"][METADATA_KEY] = json.dumps(inner)
        text = json.dumps(outer).encode()
        file = tmp_path_factory.mktemp("changed") / "a.sparse"
        file.write_bytes(len(text).to_bytes(8, "little") + text + a_file[8 + length :])
        tensors = outcome(file)
        distinct = {id(tensor): tensor.nbytes for tensor in tensors.values()} if tensors else {}
        assert sum(distinct.values()) <= MOST_EXPANSION * file.stat().st_size + ALWAYS_ALLOWED

    @pytest.mark.parametrize(
        "changed",
        [
            {"b": {"parts": {"values": "g::mask"}}},
            {"g": {"shape": [2**30, 2**30]}},
            {"g": {"shape": [2**40, 2**40, 0]}},
            {"d": {"dtype": "bool"}},
            {"d": {"dtype": "uint16"}},
            {"d": {"negative zeros": {"encoding": "gaps", "count": 2**40, "shift": 48}}},
            {"a": {"mask": {"encoding": "gaps", "count": 1, "shift": 48}}},
            {"a": {"parts": {}}},
            {"tied": {"same as": "nobody"}},
            {"c": 3},
        ],
        ids=str,
    )
    def test_known_attacks_are_refused(self, tmp_path: Path, a_file: bytes, changed: dict[str, Any]) -> None:
        length = int.from_bytes(a_file[:8], "little")
        outer = json.loads(a_file[8 : 8 + length])
        inner = json.loads(outer["__metadata__"][METADATA_KEY])
        for name, fields in changed.items():
            inner["tensors"][name] = {**inner["tensors"][name], **fields} if isinstance(fields, dict) else fields
        inner["checksum"] = checksum_of(a_file, inner)
        outer["__metadata__"][METADATA_KEY] = json.dumps(inner)
        text = json.dumps(outer).encode()
        file = tmp_path / "a.sparse"
        file.write_bytes(len(text).to_bytes(8, "little") + text + a_file[8 + length :])
        assert outcome(file) is None

    def test_changed_metadata_are_found(self, tmp_path: Path, a_file: bytes) -> None:
        file = tmp_path / "a.sparse"
        save_sparse({"a": torch.ones(2)}, file, metadata={"recipe": "digits"})
        file.write_bytes(file.read_bytes().replace(b"digits", b"diguts"))
        assert outcome(file) is None


def test_a_sparse_file_of_another_name_is_exported_as_what_it_holds(tmp_path: Path) -> None:
    tensors = {"weight": pruned((30, 20), 0.1), "bias": torch.randn(30)}
    save_sparse(tensors, tmp_path / "small.safetensors")
    command = ["export", str(tmp_path / "small.safetensors"), "--format", "safetensors"]
    result = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "dense.safetensors")])
    assert result.exit_code == 0, result.output
    written = safetensors.torch.load_file(tmp_path / "dense.safetensors")
    assert written.keys() == tensors.keys()
    assert all(torch.equal(written[name], tensors[name]) for name in tensors)


def test_a_model_in_place_of_its_state_dict_is_named(tmp_path: Path) -> None:
    model: Any = torch.nn.Linear(2, 2)
    with pytest.raises(TypeError, match=r"as model\.state_dict\(\) does, got Linear"):
        save_sparse(model, tmp_path / "a.sparse")


def test_tensors_that_are_made_when_asked_for_are_kept_apart(tmp_path: Path) -> None:
    class Lazy(dict[str, Tensor]):
        def items(self) -> Any:
            return ((name, torch.full((500, 3), float(name))) for name in self)

        def __getitem__(self, name: str) -> Tensor:
            return torch.full((500, 3), float(name))

    names = Lazy({str(number): torch.zeros(0) for number in range(20)})
    save_sparse(names, tmp_path / "a.sparse")
    loaded = load_sparse(tmp_path / "a.sparse")
    assert all(bool((loaded[name] == float(name)).all()) for name in names)


def test_a_conjugate_is_not_the_tensor(tmp_path: Path) -> None:
    value = torch.randn(4, dtype=torch.complex64)
    save_sparse({"x": value, "y": value.conj()}, tmp_path / "a.sparse")
    loaded = load_sparse(tmp_path / "a.sparse")
    assert torch.equal(loaded["x"], value)
    assert torch.equal(loaded["y"], value.conj())


def change(data: st.DataObject, node: dict[str, Any]) -> None:
    """Replace one value somewhere in a tree by something that has no business there."""
    key = data.draw(st.sampled_from(sorted(node)))
    inside = node[key]
    if isinstance(inside, dict) and inside and data.draw(st.booleans()):
        change(data, inside)
        return
    hostile = [0, -1, 1, 7, 2**31, 2**40, 2**62, 2**70, 1e300, None, True, "gaps", "bit mask", "dense", "sparse"]
    node[key] = data.draw(st.sampled_from([*hostile, "float32", [], {}, [2**40, 2**40], [10**6, 10**6], ["x"], [-1]]))


def checksum_of(content: bytes, inner: dict[str, Any]) -> Any:
    """The checksum that fits a changed header, so that what comes after it is reached; as it was where none can."""
    from sparsewright.export.sparse import _checksum

    parts = safetensors.torch.load(content)
    try:
        return _checksum(inner, parts)
    except (KeyError, TypeError, AttributeError):
        return inner.get("checksum")
