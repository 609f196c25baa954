"""Headers: what is written loads with the safetensors library, what is read is verified, rubbish is an InputError."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch
from checkpoints import raw_file
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load, save

from mergec.errors import InputError
from mergec.io.tensors import CODE_OF, ITEM_BYTES, Header, header_bytes, parse_header, read_header

TENSORS = {
    "long": torch.arange(3),
    "float": torch.tensor([[1.5, -2.0]]),
    "half": torch.tensor([0.5, 1.0], dtype=torch.float16),
    "bfloat": torch.tensor([0.25], dtype=torch.bfloat16),
    "scalar": torch.tensor(3.0),
    "empty": torch.zeros(0, 4),
    "flags": torch.tensor([True, False, True]),
}


def parse(file: bytes) -> Header:
    return parse_header(io.BytesIO(file), "file.safetensors", len(file))


def refused(file: bytes) -> str:
    with pytest.raises(InputError) as caught:
        parse(file)
    return str(caught.value)


def entry(begin: int, end: int, shape: list[int] | None = None, dtype: str = "F32") -> dict[str, object]:
    shape = [(end - begin) // 4] if shape is None else shape
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_a_header_names_every_tensor_and_its_bytes() -> None:
    file = save(TENSORS)
    header = parse(file)
    assert header.tensors.keys() == TENSORS.keys()
    assert header.file_bytes == len(file)
    for name, tensor in TENSORS.items():
        ref = header.tensors[name]
        assert (ref.dtype, ref.shape) == (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
        assert list(file[ref.begin : ref.end]) == tensor.reshape(-1).view(torch.uint8).tolist()


@settings(max_examples=60)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=8).filter(lambda name: name.isprintable() and name != "__metadata__"),
        st.tuples(
            st.sampled_from(["float64", "float32", "float16", "bfloat16", "int64", "uint8", "bool"]),
            st.lists(st.integers(0, 4), max_size=4),
        ),
        max_size=6,
    )
)
def test_what_is_written_loads_with_the_library(tensors: dict[str, tuple[str, list[int]]]) -> None:
    spans, position = {}, 0
    for name, (dtype, shape) in tensors.items():
        numel = torch.Size(shape).numel()
        spans[name] = (dtype, tuple(shape), position, position + numel * ITEM_BYTES[dtype])
        position = spans[name][-1]
    header = header_bytes(spans)
    assert len(header) % 8 == 0
    file = header + bytes(position)
    loaded = load(file)
    assert {name: (str(one.dtype)[6:], list(one.shape)) for name, one in loaded.items()} == {
        name: (dtype, shape) for name, (dtype, shape) in tensors.items()
    }
    refs = parse(file).tensors
    assert {name: (ref.dtype, list(ref.shape)) for name, ref in refs.items()} == tensors
    assert {name: (ref.begin - len(header), ref.end - len(header)) for name, ref in refs.items()} == {
        name: span[2:] for name, span in spans.items()
    }


def test_every_dtype_has_the_library_s_code() -> None:
    for name, code in CODE_OF.items():
        file = header_bytes({"w": (name, (8,), 0, 8 * ITEM_BYTES[name])}) + bytes(8 * ITEM_BYTES[name])
        assert load(file)["w"].dtype == getattr(torch, name), code


GOOD = save({"a": torch.ones(2, 3), "b": torch.arange(4), "c": torch.zeros(5, dtype=torch.bfloat16)})
_length = int.from_bytes(GOOD[:8], "little")
HEADER, DATA = json.loads(GOOD[8 : 8 + _length]), GOOD[8 + _length :]
RUBBISH = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(min_value=2**53, max_value=2**80),
    st.floats(),
    st.text(max_size=4),
    st.lists(st.integers(-2, 30), max_size=3),
    st.just({}),
    st.sampled_from(["F32", "F8_E8M0", "I4", [0, 24], {"a": 1, "b": 2}]),
)


@settings(max_examples=300)
@given(st.sampled_from(["a", "b", "c"]), st.sampled_from(["dtype", "shape", "data_offsets", ""]), RUBBISH)
def test_a_mangled_entry_is_refused_as_the_library_refuses_it(name: str, key: str, value: object) -> None:
    header = json.loads(json.dumps(HEADER))
    if key:
        header[name][key] = value
    else:
        header[name] = value
    file = raw_file(header, DATA)
    try:
        parse(file)
    except InputError:
        return
    load(file)  # what we take, the library takes


@settings(max_examples=300)
@given(st.data())
def test_mangled_bytes_are_an_input_error_and_nothing_else(data: st.DataObject) -> None:
    file = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 3))):
        file[data.draw(st.integers(0, 8 + _length))] = data.draw(st.integers(0, 255))
    mangled = bytes(file[: data.draw(st.one_of(st.just(len(file)), st.integers(0, len(file))))])
    try:
        parse(mangled)
    except InputError:
        return
    load(mangled)


@pytest.mark.parametrize("size", [2**53 + 2, 2**63, 2**64 + 24, 10**30])
def test_sizes_beyond_2_to_53_are_counted_exactly(size: int) -> None:
    assert "sound" in refused(raw_file({"w": entry(0, size, [size // 4])}, DATA))
    assert "does not fill" in refused(raw_file({"w": entry(0, 24, [size, size])}, bytes(24)))
    assert "does not fill" in refused(raw_file({"w": entry(0, 24, [2**32, 2**32 + 6])}, bytes(24)))


def test_a_duplicate_name_is_refused() -> None:
    text = b'{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
    assert "'w' stands twice" in refused(raw_file(text, b"\0"))


def test_spans_must_tile_the_file() -> None:
    assert "starts at byte" in refused(raw_file({"a": entry(4, 8)}, bytes(8)))
    assert "starts at byte" in refused(raw_file({"a": entry(0, 8), "b": entry(4, 12)}, bytes(12)))
    assert "truncated" in refused(raw_file({"a": entry(0, 8)}, bytes(7)))
    assert "1 bytes follow" in refused(raw_file({"a": entry(0, 8)}, bytes(9)))
    assert parse(raw_file({"b": entry(4, 8), "a": entry(0, 4), "e": entry(4, 4, [0])}, bytes(8)))


def test_a_file_that_is_not_there_or_not_safetensors(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="E311"):
        read_header(tmp_path / "absent.safetensors")
    with pytest.raises(InputError, match="E311"):
        read_header(tmp_path)
    for text in (b"", b"\0", b"PK\x03\x04 a zip file", b"version https://git-lfs.github.com/spec/v1\n" * 3):
        (tmp_path / "w.safetensors").write_bytes(text)
        with pytest.raises(InputError, match="E310"):
            read_header(tmp_path / "w.safetensors")


def test_a_deeply_nested_header_is_refused() -> None:
    refused(raw_file(b'{"a":' + b"[" * 100_000))
