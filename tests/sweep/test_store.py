"""The store: whole or not at all, and never wrong."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prune_bench.sweep.store import Artifact, Store, decode, encode

ARTIFACT = Artifact(
    {"loss": float("nan"), "cell": {"density": 0.05}, "text": "é"},
    {"b": np.arange(6, dtype=np.int32).reshape(2, 3), "a": np.array(True), "c": np.zeros((0, 2), np.float32)},
)
KEY = "ticket-" + "0a" * 16


def same(left, right):
    assert json.dumps(left.record, sort_keys=True) == json.dumps(right.record, sort_keys=True)
    assert list(left.tensors) == list(right.tensors)
    for name, array in left.tensors.items():
        assert array.dtype == right.tensors[name].dtype
        assert array.shape == right.tensors[name].shape
        assert (array == right.tensors[name]).all()


def test_gives_back_what_it_was_given_in_its_order(tmp_path):
    store = Store(tmp_path)
    assert store.read(KEY) is None
    store.write(KEY, ARTIFACT)
    same(store.read(KEY), ARTIFACT)
    assert [p.name for p in tmp_path.rglob("*") if p.is_file()] == ["0a" * 16 + ".safetensors"]


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_no_flipped_bit_passes_for_the_artifact(data):
    whole = encode(ARTIFACT)
    at, bit = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7))
    broken = whole[:at] + bytes([whole[at] ^ (1 << bit)]) + whole[at + 1 :]
    try:
        found = decode(broken)
    except ValueError:
        return
    same(found, ARTIFACT)  # a flip in padding changes nothing


@pytest.mark.parametrize("damage", [lambda b: b[:-1], lambda b: b[: len(b) // 2], lambda b: b"", lambda b: b[:7]])
def test_a_damaged_file_is_set_aside_with_a_word(tmp_path, damage):
    said = []
    store = Store(tmp_path, said.append)
    store.write(KEY, ARTIFACT)
    path = tmp_path / store.name(KEY)
    path.write_bytes(damage(path.read_bytes()))
    assert store.read(KEY) is None
    assert not path.exists()
    assert len(list((tmp_path / "damaged").iterdir())) == 1
    assert "damaged" in said[0]
    store.write(KEY, ARTIFACT)
    same(store.read(KEY), ARTIFACT)


def test_a_write_that_fails_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    store = Store(tmp_path)
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        store.write(KEY, ARTIFACT)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
