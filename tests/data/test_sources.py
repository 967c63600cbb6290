"""The data sets themselves: what they hold, and what they say when they cannot be had."""

from dataclasses import is_dataclass

import pytest
import torch
import torchvision
from PIL import Image
from sklearn.datasets import load_digits

from prune_bench.data import datasets, load_data
from prune_bench.errors import ConfigError, DataError
from prune_bench.options import option_table
from prune_bench.randomness import generator


def everything(data):
    return list(data.evaluation("test", 64))


def test_digits_are_scikit_learns_with_a_fifth_of_each_class_as_the_test_split(tmp_path):
    data = load_data("digits", {"root": str(tmp_path), "validation": 0.0}, seed=0)
    test = torch.cat([y for _, y in everything(data)])
    train = torch.cat([y for _, y in data.epoch(0, 1438, augment=True)])
    whole = torch.bincount(torch.tensor(load_digits().target))
    assert torch.equal(torch.bincount(test), (whole / 5).round().long())
    assert torch.equal(torch.bincount(train) + torch.bincount(test), whole)
    pixels = torch.cat([x for x, _ in data.epoch(0, 1438, augment=True)])
    assert abs(float(pixels.mean())) < 0.01 and abs(float(pixels.std()) - 1) < 0.01


def test_digits_are_the_same_test_split_for_every_seed_and_on_every_machine(tmp_path):
    data = [load_data("digits", {"root": str(tmp_path)}, seed) for seed in (0, 1)]
    assert data[0].fingerprint == data[1].fingerprint
    assert data[0].fingerprint == "4b2db074d4988615fffcd6c097d4bcba7104d34fa18d9a22b34e27b606575a62"
    assert all(torch.equal(x, xx) for (x, _), (xx, _) in zip(*map(everything, data)))


def test_synthetic_data_are_the_same_for_every_seed_and_can_be_learnt(tmp_path):
    options = {"samples": 300, "test_samples": 100, "classes": 5, "channels": 2, "image_size": 9, "validation": 0.0}
    data = load_data("synthetic", options, seed=0)
    assert data.fingerprint == load_data("synthetic", options, seed=1).fingerprint
    assert (data.input_shape, data.num_classes, data.samples) == ((2, 9, 9), 5, 300)
    x, y = next(data.epoch(0, 300, augment=False))
    centres = torch.stack([x[y == label].mean(0) for label in range(5)]).flatten(1)
    tests = [(torch.cdist(x.flatten(1), centres).argmin(1) == y).float().mean() for x, y in everything(data)]
    assert min(tests) > 0.95


@pytest.mark.parametrize(("name", "cls"), [("cifar10", "CIFAR10"), ("fashion_mnist", "FashionMNIST")])
def test_without_a_network_the_message_says_what_to_put_where_and_nothing_is_left(tmp_path, monkeypatch, name, cls):
    def offline(root, **_):
        (tmp_path / root / "half.tar.gz").write_bytes(b"x")
        raise OSError("Network is unreachable")

    monkeypatch.setattr(torchvision.datasets, cls, offline)
    with pytest.raises(DataError) as caught:
        load_data(name, {"root": str(tmp_path)}, seed=0)
    for part in (
        "Network is unreachable",
        f"{tmp_path}/{name}/train.safetensors",
        "test.safetensors",
        "uint8",
        "int64",
    ):
        assert part in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "cls", "channels"), [("cifar100", "CIFAR100", 3), ("fashion_mnist", "FashionMNIST", 1)]
)
def test_what_torchvision_downloads_becomes_channels_first_samples(tmp_path, monkeypatch, name, cls, channels):
    from prune_bench.data.downloads import DOWNLOADS, fetch

    class Downloaded:
        def __init__(self, root, train, download):
            shape = (4, 5, 6, 3) if channels == 3 else (4, 5, 6)
            self.data = torch.randint(256, shape, dtype=torch.uint8, generator=generator(int(train)))
            self.data = self.data.numpy() if channels == 3 else self.data
            self.targets = [3, 1, 0, 2] if train else [1, 1, 1, 1]

    monkeypatch.setattr(torchvision.datasets, cls, Downloaded)
    download = next(d for d in DOWNLOADS if d.name == name)
    train, test = fetch(download, tmp_path)
    source = torch.as_tensor(Downloaded(None, True, True).data)
    assert train.images.shape == (4, channels, 5, 6) and train.images.is_contiguous()
    assert torch.equal(train.images[2, -1], source[2, :, :, -1] if channels == 3 else source[2])
    assert train.labels.tolist() == [3, 1, 0, 2] and test.labels.tolist() == [1, 1, 1, 1]
    assert list(tmp_path.iterdir()) == []


def picture(path, size, grey):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, grey).save(path, "PNG")


@pytest.fixture
def tiny(tmp_path):
    folder = tmp_path / "tiny-imagenet-200"
    for label, wnid in enumerate(["n01", "n02", "n03"]):
        for i in range(4):
            picture(folder / "train" / wnid / "images" / f"{wnid}_{i}.JPEG", (64, 64), 10 * label + i)
    rows = [("val_0.JPEG", "n03", 200), ("val_1.JPEG", "n01", 100)]
    for name, _, grey in rows:
        picture(folder / "val" / "images" / name, (64, 64), grey)
    lines = [f"{name}\t{wnid}\t0\t0\t9\t9\n" for name, wnid, _ in rows]
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    return folder


def test_tiny_imagenet_is_read_from_its_folder_once_with_its_annotated_images_as_test_split(tiny):
    data = load_data("tiny_imagenet", {"root": str(tiny.parent), "validation": 0.0, "augment": False}, seed=0)
    assert (data.samples, data.num_classes, data.input_shape) == (12, 3, (3, 64, 64))
    mean, std = 0.4802, 0.2770

    def greys(batches):
        return {(round(float(x[0, 0, 0] * std + mean) * 255), int(y)) for xs, ys in batches for x, y in zip(xs, ys)}

    assert greys(data.evaluation("test", 8)) == {(200, 2), (100, 0)}
    assert greys(data.epoch(0, 12, augment=True)) == {(10 * label + i, label) for label in range(3) for i in range(4)}
    (tiny / "val" / "val_annotations.txt").unlink()
    assert load_data("tiny_imagenet", {"root": str(tiny.parent)}, seed=1).fingerprint == data.fingerprint


def test_tiny_imagenet_says_what_to_put_where_and_which_picture_is_broken(tiny, tmp_path):
    with pytest.raises(DataError, match=r"nowhere/tiny-imagenet-200/train/<wnid>/images"):
        load_data("tiny_imagenet", {"root": str(tmp_path / "nowhere")}, seed=0)
    broken = tiny / "train" / "n02" / "images" / "n02_1.JPEG"
    broken.write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"n02_1\.JPEG cannot be read"):
        load_data("tiny_imagenet", {"root": str(tiny.parent)}, seed=0)
    picture(broken, (1, 64), 0)
    with pytest.raises(DataError, match=r"n02_1\.JPEG is of \[3, 64, 1\] pixels"):
        load_data("tiny_imagenet", {"root": str(tiny.parent)}, seed=0)


def test_an_unknown_data_set_or_option_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"data\.name.*cifar10"):
        load_data("cifar", {}, seed=0)
    with pytest.raises(ConfigError, match=r"data\.validation"):
        load_data("digits", {"validation": 1.0}, seed=0)


def test_every_data_set_is_documented():
    for entry in datasets.values():
        assert entry.source and entry.summary
        tables = [option_table(base) for base in entry.options.__mro__ if is_dataclass(base)]
        documented = {row["name"] for table in tables for row in table if row["meaning"]}
        assert documented == {row["name"] for row in tables[0]}
