"""A data set on disk is built whole, verified when read, and never trusted blindly."""

import os
import time

import pytest
import torch
from safetensors.torch import save_file

from prune_bench.data import Samples, cache, data_root, fingerprint
from prune_bench.data.cache import Expected, load_or_build
from prune_bench.errors import DataError

EXPECTED = Expected(shape=(1, 2, 2), classes=3, counts=(6, 3))


def splits():
    images = torch.arange(36, dtype=torch.uint8).view(9, 1, 2, 2)
    labels = torch.arange(9) % 3
    return Samples(images[:6], labels[:6]), Samples(images[6:], labels[6:])


def refuse():
    raise AssertionError("built although it was there")


@pytest.fixture
def built(tmp_path):
    return load_or_build(tmp_path, "toy", EXPECTED, splits)


def test_what_was_built_is_read_back_and_not_built_again(tmp_path, built):
    again = load_or_build(tmp_path, "toy", EXPECTED, refuse)
    for found, made in zip((again.train, again.test), splits()):
        assert torch.equal(found.images, made.images) and torch.equal(found.labels, made.labels)
    assert sorted(p.name for p in (tmp_path / "toy").iterdir()) == ["test.safetensors", "train.safetensors"]


def test_files_that_others_put_there_are_used_as_they_are(tmp_path):
    (tmp_path / "toy").mkdir()
    for split, samples in zip(("train", "test"), splits()):
        save_file(samples._asdict(), tmp_path / "toy" / f"{split}.safetensors")
    assert load_or_build(tmp_path, "toy", EXPECTED, refuse).fingerprint == fingerprint(*splits())


def test_a_second_reading_in_one_process_touches_no_file(tmp_path, built, monkeypatch):
    monkeypatch.setattr(cache, "safe_open", refuse)
    assert load_or_build(tmp_path, "toy", EXPECTED, refuse) is built


def damaged(file, change):
    content = bytearray(file.read_bytes())
    file.write_bytes(change(content))
    os.utime(file, ns=(time.time_ns(),) * 2)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: b"not a tensor file at all, but long enough",
        lambda content: content[:-1] + bytes([content[-1] ^ 1]),
        lambda content: content[:-80] + bytes([content[-80] ^ 1]) + content[-79:],
    ],
    ids=["cut in half", "empty", "something else", "one bit of a label", "one bit"],
)
def test_a_damaged_file_is_refused_by_name(tmp_path, built, change):
    file = tmp_path / "toy" / "train.safetensors"
    damaged(file, change)
    with pytest.raises(DataError, match=r"toy/train\.safetensors .*Remove it"):
        load_or_build(tmp_path, "toy", EXPECTED, refuse)


@pytest.mark.parametrize(
    ("images", "labels", "reason"),
    [
        (torch.zeros(6, 1, 2, 2), torch.zeros(6, dtype=torch.long), r"torch\.float32 images"),
        (torch.zeros(6, 1, 2, 2).byte(), torch.zeros(6).int(), r"torch\.int32 labels"),
        (torch.zeros(6, 2, 2).byte(), torch.zeros(6).long(), r"images \[6, 2, 2\]"),
        (torch.zeros(6, 1, 2, 2).byte(), torch.zeros(5).long(), r"labels \[5\]"),
        (torch.zeros(5, 1, 2, 2).byte(), torch.zeros(5).long(), "5 samples, not 6"),
        (torch.zeros(6, 1, 2, 2).byte(), torch.full((6,), 3), "labels from 3 to 3, not from 0 to 2"),
        (torch.zeros(6, 1, 2, 2).byte(), torch.full((6,), -1), "labels from -1"),
    ],
)
def test_a_file_of_something_else_is_refused_with_what_it_holds(tmp_path, built, images, labels, reason):
    save_file({"images": images, "labels": labels}, tmp_path / "toy" / "train.safetensors")
    with pytest.raises(DataError, match=reason):
        load_or_build(tmp_path, "toy", EXPECTED, refuse)


def test_a_file_without_labels_is_refused(tmp_path, built):
    save_file({"images": torch.zeros(6, 1, 2, 2).byte()}, tmp_path / "toy" / "test.safetensors")
    with pytest.raises(DataError, match=r"test\.safetensors cannot be read.*labels"):
        load_or_build(tmp_path, "toy", EXPECTED, refuse)


def test_a_build_cut_short_between_the_files_is_finished_and_leaves_the_first_file_alone(tmp_path, built):
    train = tmp_path / "toy" / "train.safetensors"
    before = train.stat().st_mtime_ns
    (tmp_path / "toy" / "test.safetensors").unlink()
    assert load_or_build(tmp_path, "toy", EXPECTED, splits).fingerprint == built.fingerprint
    assert train.stat().st_mtime_ns == before


def test_a_failed_write_leaves_nothing_and_says_where(tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(cache, "save_file", full)
    with pytest.raises(DataError, match=r"train\.safetensors cannot be written.*PRUNE_BENCH_DATA"):
        load_or_build(tmp_path, "toy", EXPECTED, splits)
    assert not list((tmp_path / "toy").iterdir())


def test_the_fingerprint_is_the_contents_and_not_the_paths(tmp_path, built):
    assert load_or_build(tmp_path / "elsewhere", "other", EXPECTED, splits).fingerprint == built.fingerprint
    train, test = splits()
    other_pixel, other_label = Samples(train.images + 1, train.labels), Samples(train.images, train.labels.flip(0))
    assert len({fingerprint(train, test), fingerprint(test, train), fingerprint(other_pixel, test),
                fingerprint(other_label, test)}) == 4  # fmt: skip


def test_the_root_is_the_option_then_the_variable_then_the_users_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("PRUNE_BENCH_DATA", str(tmp_path))
    assert str(data_root("~/x")) == os.path.expanduser("~/x")
    assert data_root("") == tmp_path
    monkeypatch.delenv("PRUNE_BENCH_DATA")
    assert data_root("").parts[-2:] == ("prune_bench", "data")
