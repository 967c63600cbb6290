"""ImageNet's pictures, streamed: the same batches whoever decodes them, and the same interface as small data."""

import itertools
import multiprocessing

import pytest
import torch
from PIL import Image

from prune_bench import parallel
from prune_bench.data import folder, load_data
from prune_bench.errors import DataError
from prune_bench.randomness import generator

GREYS = {"n01": (30, 90), "n02": (120, 210)}


@pytest.fixture
def root(tmp_path):
    for wnid, (low, high) in GREYS.items():
        for split, count in (("train", 6), ("val", 3)):
            home = tmp_path / "imagenet" / split / wnid
            home.mkdir(parents=True)
            for i in range(count):
                noise = torch.randint(low, high, (40, 50, 3), generator=generator(i, split, wnid))
                Image.fromarray(noise.to(torch.uint8).numpy()).save(home / f"{wnid}_{i}.JPEG", quality=95)
    return tmp_path


def load(root, seed=0, **options):
    return load_data("imagenet", {"root": str(root), "image_size": 16, "validation": 0.25} | options, seed)


def test_it_gives_what_a_small_data_set_gives(root):
    data = load(root)
    assert (data.samples, data.num_classes, data.input_shape, data.steps_per_epoch(4)) == (9, 2, (3, 16, 16), 2)
    batches = list(data.epoch(0, 4, augment=True))
    assert [(x.shape, x.dtype, y.dtype) for x, y in batches] == [((4, 3, 16, 16), torch.float32, torch.int64)] * 2
    assert torch.bincount(data.balanced(2)[1]).tolist() == [2, 2]
    assert [len(y) for _, y in data.evaluation("test", 4)] == [3, 3]
    assert sum(len(y) for _, y in data.evaluation("validation", 4)) == 3
    assert data.to("cpu") is data


def test_labels_belong_to_their_pictures(root):
    for x, y in load(root).evaluation("test", 4):
        assert torch.equal((x.mean((1, 2, 3)) > 0).long(), y)


def test_the_next_batch_is_on_its_way_while_one_is_in_use(root, monkeypatch):
    sent, real = [], folder.send
    monkeypatch.setattr(folder, "send", lambda tensor, device: sent.append(len(tensor)) or real(tensor, device))
    batches = load(root).epoch(0, 4, augment=True)
    next(batches)
    assert sent == [4] * 4  # pictures and labels of two batches
    next(batches)
    assert sent == [4] * 4 and not list(batches)


def test_augmentation_is_drawn_for_epoch_and_picture_and_leaves_global_randomness_alone(root):
    def epoch(number, size=9):
        return torch.cat([x for x, _ in load(root).epoch(number, size, augment=True)])

    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = epoch(0)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(epoch(0, size=3), first)
    assert not torch.equal(epoch(1), first)
    plain = load(root, augment=False)
    assert torch.equal(next(plain.epoch(0, 9, augment=True))[0], next(plain.epoch(0, 9, augment=False))[0])


def processes():
    return {child.pid for child in multiprocessing.active_children()}


@pytest.mark.slow
def test_worker_processes_are_kept_over_epochs_and_evaluations_and_end_with_the_data(root):
    before, data, alone = processes(), load(root, workers=1), load(root)
    uses = [
        lambda data: data.epoch(0, 4, augment=True),
        lambda data: data.epoch(1, 4, augment=True),
        lambda data: itertools.islice(data.epoch(2, 2, augment=True), 1),  # left early
        lambda data: data.evaluation("validation", 2),
        lambda data: data.evaluation("test", 4),
        lambda data: [data.balanced(2)],
        lambda data: data.epoch(1, 4, augment=True),
    ]
    seen = []
    for use in uses:
        for (x, y), (xx, yy) in zip(use(data), use(alone), strict=True):
            assert torch.equal(x, xx) and torch.equal(y, yy)
        seen.append(processes() - before)
    assert len(seen[0]) == 1 and all(pids == seen[0] for pids in seen)
    # Two that are read in turn do not get in each other's way.
    together = list(zip(data.epoch(0, 4, augment=True), data.epoch(1, 4, augment=True)))
    assert all(
        torch.equal(x, xx) for (x, _), (xx, _) in zip([one for one, _ in together], alone.epoch(0, 4, augment=True))
    )
    assert all(
        torch.equal(x, xx) for (x, _), (xx, _) in zip([two for _, two in together], alone.epoch(1, 4, augment=True))
    )
    del data
    assert processes() == before


def test_a_loader_that_met_a_broken_picture_is_not_used_again(root):
    data = load(root, validation=0.0)
    list(data.epoch(0, 12, augment=False))
    assert len(data._idle) == 1
    broken = root / "imagenet" / "train" / "n01" / "n01_0.JPEG"
    whole = broken.read_bytes()
    broken.write_bytes(b"no picture")
    with pytest.raises(DataError):
        list(data.epoch(0, 12, augment=False))
    assert data._idle == []
    broken.write_bytes(whole)
    assert len(list(data.epoch(0, 6, augment=False))) == 2


def test_ranks_decode_their_shares_of_every_batch(root, monkeypatch):
    def batches():
        return [*load(root).epoch(1, 4, augment=True), *load(root).evaluation("test", 4)]

    whole, shares = batches(), []
    monkeypatch.setattr(parallel, "ranks", lambda: 2)
    for index in range(2):
        monkeypatch.setattr(parallel, "rank", lambda index=index: index)
        shares.append(batches())
    for wanted, *found in zip(whole, *shares, strict=True):
        assert all(torch.equal(torch.cat(pieces), tensor) for pieces, tensor in zip(zip(*found), wanted))


def test_the_fingerprint_follows_the_files_and_not_where_they_lie(root, tmp_path_factory):
    before = load(root).fingerprint
    moved = tmp_path_factory.mktemp("moved") / "data"
    root.rename(moved)
    assert load(moved).fingerprint == before
    (moved / "imagenet" / "train" / "n01" / "n01_0.JPEG").rename(moved / "imagenet" / "train" / "n02" / "odd.JPEG")
    (moved / "imagenet" / "train" / "new").touch()  # a folder's time changes when an entry of its own does
    assert load(moved).fingerprint != before


def test_a_missing_folder_class_or_picture_is_named(root, tmp_path):
    with pytest.raises(DataError, match=r"nowhere/imagenet/train/<class>"):
        load(tmp_path / "nowhere")
    (root / "imagenet" / "train" / "n01" / "n01_0.JPEG").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"n01_0\.JPEG cannot be read"):
        list(load(root, validation=0.0).epoch(0, 12, augment=False))
    for file in (root / "imagenet" / "val" / "n02").iterdir():
        file.unlink()
    (root / "imagenet" / "val" / "n02").rmdir()
    with pytest.raises(DataError, match="'n02' is in only one of"):
        load(root)
