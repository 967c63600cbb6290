"""Batches of a data set held on the device: which samples, in which order, for which seed."""

import weakref
from collections import Counter

import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from prune_bench import parallel
from prune_bench.data import DeviceData, Samples
from prune_bench.errors import DataError
from prune_bench.randomness import generator

CLASSES = 4


def numbered(count, start=0):
    """Images whose two pixels spell their own number; labels sorted by class, as some files have them."""
    numbers = torch.arange(start, start + count)
    images = torch.stack([numbers // 256, numbers % 256], 1).to(torch.uint8).view(-1, 1, 1, 2)
    return Samples(images, torch.arange(count) * CLASSES // count)


def numbers_of(batches):
    return [(x.flatten(1) @ torch.tensor([256.0, 1.0])).mul(255).round().int().tolist() for x, _ in batches]


def make(samples=100, tests=40, *, validation=0.2, seed=0, **how):
    how = {"mean": (0.0,), "std": (1.0,), "augmentation": "none", "fingerprint": "f"} | how
    train, test = numbered(samples), numbered(tests, start=1000)
    return DeviceData("toy", train, test, num_classes=CLASSES, validation=validation, seed=seed, **how)


def flat(batches):
    return [number for batch in numbers_of(batches) for number in batch]


def test_validation_and_training_samples_never_overlap_and_together_are_the_training_split():
    data = make()
    trained = {number for epoch in range(3) for number in flat(data.epoch(epoch, 8, augment=False))}
    held_out = set(flat(data.evaluation("validation", 8)))
    assert len(trained) == 80 and len(held_out) == 20
    assert trained | held_out == set(range(100))


def test_the_split_is_the_seeds():
    splits = [set(flat(make(seed=seed).evaluation("validation", 8))) for seed in (0, 0, 1)]
    assert splits[0] == splits[1] != splits[2]


def test_an_epoch_gives_whole_batches_and_every_sample_at_most_once():
    data = make()
    batches = numbers_of(data.epoch(0, 32, augment=False))
    assert [len(batch) for batch in batches] == [32, 32] and data.steps_per_epoch(32) == 2
    assert max(Counter(n for batch in batches for n in batch).values()) == 1


def test_a_batch_larger_than_the_training_set_is_all_of_it():
    data = make()
    assert [len(batch) for batch in numbers_of(data.epoch(0, 512, augment=False))] == [80]
    assert data.steps_per_epoch(512) == 1


def test_orders_differ_between_epochs_and_seeds_and_are_otherwise_repeated():
    data = make(validation=0.0)
    first = flat(data.epoch(0, 100, augment=False))
    assert first == flat(data.epoch(0, 100, augment=False))
    assert first != flat(data.epoch(1, 100, augment=False))
    assert first != flat(make(validation=0.0, seed=1).epoch(0, 100, augment=False))


def test_augmentation_is_repeated_with_its_epoch_whatever_the_batch_size_and_the_global_generator():
    images = torch.randint(256, (64, 3, 8, 8), dtype=torch.uint8, generator=generator(0))
    split = Samples(images, torch.arange(64) % 4)
    how = {"num_classes": 4, "validation": 0.0, "seed": 3, "fingerprint": "f", "augmentation": "flip_crop"}
    data = DeviceData("toy", split, split, mean=(0.5,) * 3, std=(0.2,) * 3, **how)

    def epoch(number, batch_size, augment=True):
        return torch.cat([x for x, _ in data.epoch(number, batch_size, augment=augment)])

    torch.manual_seed(0)
    before = torch.get_rng_state()
    first = epoch(0, 16)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert torch.equal(first, epoch(0, 32))
    assert not torch.equal(first, epoch(0, 16, augment=False))
    altered, plain = (torch.cat([y for _, y in data.epoch(0, 16, augment=augment)]) for augment in (True, False))
    assert torch.equal(altered, plain)


def plain_epoch(train, data, epoch, batch_size, training):
    """Batches as they are defined: each image mirrored, padded, cropped and normalised, nothing looked up."""
    order = training[torch.randperm(len(training), generator=generator(data.seed, "order", epoch))]
    used = max(1, len(order) // batch_size) * batch_size
    draws = generator(data.seed, "augment", epoch)
    flips = torch.randint(2, (min(used, len(order)),), generator=draws)
    shifts = torch.randint(9, (len(flips), 2), generator=draws)
    _, _, height, width = train.images.shape
    padded = F.pad(train.images.float(), (4, 4, 4, 4), mode="reflect")
    mirrored = F.pad(train.images.flip(3).float(), (4, 4, 4, 4), mode="reflect")
    rows = [
        (mirrored if flip else padded)[i, :, down : down + height, right : right + width]
        for i, flip, (down, right) in zip(order.tolist(), flips.tolist(), shifts.tolist())
    ]
    return torch.stack(rows).split(batch_size), train.labels[order[: len(rows)]].split(batch_size)


@pytest.mark.parametrize(
    ("shape", "batch_size"), [((1, 8, 8), 64), ((3, 32, 32), 50), ((3, 5, 9), 7), ((2, 64, 64), 512)]
)
def test_every_bit_of_an_augmented_epoch_is_that_of_padding_cropping_and_normalising_each_image(shape, batch_size):
    images = torch.randint(256, (120, *shape), dtype=torch.uint8, generator=generator(0))
    split = Samples(images, torch.arange(120) % 7)
    mean, std = (0.4914, 0.4822, 0.4465)[: shape[0]], (0.2470, 0.2435, 0.2616)[: shape[0]]
    how = {"num_classes": 7, "validation": 0.1, "seed": 3, "fingerprint": "f", "augmentation": "flip_crop"}
    data = DeviceData("toy", split, split, mean=mean, std=std, **how)
    training = torch.randperm(120, generator=generator(3, "validation"))[12:]
    for epoch in (0, 1, 5, 1):
        xs, ys = plain_epoch(split, data, epoch, batch_size, training)
        found = list(data.epoch(epoch, batch_size, augment=True))
        assert len(found) == len(xs)
        for (x, y), raw, labels in zip(found, xs, ys):
            assert torch.equal(x, (raw / 255 - torch.tensor(mean).view(-1, 1, 1)) / torch.tensor(std).view(-1, 1, 1))
            assert torch.equal(y, labels) and x.is_contiguous()


class Kernels(TorchDispatchMode):
    """Counts operators that a GPU would start a kernel for."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += not (func.is_view or "empty" in func.__name__)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("augment", "most"), [(True, 5), (False, 3)])
def test_a_batch_on_a_device_is_few_kernels(augment, most):
    images = torch.zeros(64, 3, 8, 8, dtype=torch.uint8)
    how = {"num_classes": 4, "validation": 0.0, "seed": 3, "fingerprint": "f", "augmentation": "flip_crop"}
    data = DeviceData("toy", Samples(images, torch.arange(64) % 4), Samples(images, torch.arange(64) % 4),
                      mean=(0.5,) * 3, std=(0.2,) * 3, **how).to("meta")  # fmt: skip
    batches = data.epoch(0, 16, augment=augment)
    next(batches)
    with Kernels() as kernels:
        x, y = next(batches)
    assert kernels.count <= most
    assert x.shape == (16, 3, 8, 8) and x.device.type == y.device.type == "meta"


def tensors(data):
    return [*data._train, *data._test, data._sources]


def test_data_sets_of_the_same_pixels_share_one_copy_on_a_device_while_any_of_them_lives():
    split = Samples(torch.zeros(20, 1, 8, 8, dtype=torch.uint8), torch.arange(20) % 4)

    def load(seed):
        how = {"num_classes": 4, "validation": 0.1, "seed": seed, "fingerprint": "f", "augmentation": "flip_crop"}
        return DeviceData("toy", split, split, mean=(0.5,), std=(0.2,), **how)

    first, second = load(0).to("meta"), load(1).to("meta")
    assert all(one is other for one, other in zip(tensors(first), tensors(second)))
    copies = [weakref.ref(tensor) for tensor in first._train]
    del first
    assert all(copy() is not None for copy in copies)
    del second
    assert all(copy() is None for copy in copies)
    here = load(0).to("cpu")
    assert here._train.images is split.images


def test_labels_stay_with_their_images():
    labels = numbered(100).labels
    for x, y in make().epoch(2, 16, augment=True):
        assert torch.equal(labels[torch.tensor(numbers_of([(x, y)])[0])], y)


def test_evaluation_does_not_depend_on_a_class_sorted_order_on_disk():
    data = make(tests=400)
    for _, y in data.evaluation("test", 100):
        # Sorted, each batch would hold one class; drawn at random, 25 of each with a deviation of about 4.
        assert torch.bincount(y, minlength=CLASSES).min() >= 10


def test_evaluation_batches_are_the_same_every_time_and_for_every_seed():
    first = numbers_of(make(seed=0).evaluation("test", 16))
    assert first == numbers_of(make(seed=1).evaluation("test", 16))
    assert sorted(n for batch in first for n in batch) == list(range(1000, 1040))


@pytest.mark.parametrize(
    ("samples", "batch_size", "sizes"),
    [(40, 16, [14, 13, 13]), (40, 39, [20, 20]), (40, 64, [40]), (3, 2, [3]), (5, 1, [3, 2]), (2, 512, [2])],
)
def test_evaluation_batches_are_nearly_equal_and_never_of_one_sample(samples, batch_size, sizes):
    assert [len(batch) for batch in numbers_of(make(tests=samples).evaluation("test", batch_size))] == sizes


def test_a_split_of_one_sample_is_refused_and_an_empty_validation_split_gives_nothing():
    with pytest.raises(DataError, match="validation split of 1 sample"):
        list(make(samples=10, validation=0.1).evaluation("validation", 4))
    assert list(make(validation=0.0).evaluation("validation", 4)) == []
    with pytest.raises(DataError, match="none to train on"):
        make(samples=2, validation=0.9)


def test_a_balanced_batch_has_as_many_of_each_class_and_so_has_every_piece_of_it():
    data = make(seed=5)
    x, y = data.balanced(3)
    assert torch.bincount(y).tolist() == [3] * CLASSES
    assert all(sorted(piece.tolist()) == list(range(CLASSES)) for piece in y.split(CLASSES))
    numbers = numbers_of([(x, y)])[0]
    assert len(set(numbers)) == len(numbers)
    assert set(numbers) <= set(flat(data.epoch(0, 80, augment=False)))
    assert torch.equal(x, data.balanced(3)[0])


def test_a_class_with_too_few_samples_gives_all_it_has():
    data = make(samples=40, validation=0.5)
    available = torch.bincount(torch.cat([y for _, y in data.epoch(0, 20, augment=False)]), minlength=CLASSES)
    assert torch.bincount(data.balanced(8)[1], minlength=CLASSES).tolist() == available.clamp(max=8).tolist()


@pytest.mark.parametrize("augmentation", ["none", "flip_crop"])
def test_ranks_share_every_batch_and_have_the_balanced_one_whole(augmentation, monkeypatch):
    def batches():
        images = torch.randint(0, 256, (100, 1, 8, 8), generator=generator(0, "t")).to(torch.uint8)
        samples = Samples(images, torch.arange(100) % CLASSES)
        how = {
            "mean": (0.0,),
            "std": (1.0,),
            "augmentation": augmentation,
            "fingerprint": "f",
            "num_classes": CLASSES,
        }
        data = DeviceData("toy", samples, samples, validation=0.2, seed=0, **how)
        return [*data.epoch(1, 32, augment=True), *data.evaluation("test", 30)], data.balanced(2)

    (whole, balanced), shares = batches(), []
    monkeypatch.setattr(parallel, "ranks", lambda: 2)
    for index in range(2):
        monkeypatch.setattr(parallel, "rank", lambda index=index: index)
        shares.append(batches())
        assert torch.equal(shares[index][1][0], balanced[0])
    for wanted, *found in zip(whole, *(own for own, _ in shares), strict=True):
        assert all(torch.equal(torch.cat(pieces), tensor) for pieces, tensor in zip(zip(*found), wanted))


def test_images_too_small_to_be_padded_by_reflection_are_refused():
    with pytest.raises(DataError, match="cannot be padded"):
        make(augmentation="flip_crop")


def test_a_plain_lightning_user_gets_a_new_order_every_epoch():
    data, seen = make(), {"train": [], "validation": [], "test": []}
    data.batch_size = 40

    class Watcher(LightningModule):
        def training_step(self, batch, index):
            seen["train"].append(numbers_of([batch])[0])

        def validation_step(self, batch, index):
            seen["validation"].append(numbers_of([batch])[0])

        def test_step(self, batch, index):
            seen["test"].append(numbers_of([batch])[0])

        def configure_optimizers(self):
            return None

    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(accelerator="cpu", max_epochs=2, num_sanity_val_steps=0, enable_model_summary=False, **quiet)
    trainer.fit(Watcher(), datamodule=data)
    trainer.test(Watcher(), datamodule=data, verbose=False)
    expected = [batch for epoch in (0, 1) for batch in numbers_of(data.epoch(epoch, 40, augment=True))]
    assert seen["train"] == expected and len(expected) == 4
    assert seen["validation"] == 2 * numbers_of(data.evaluation("validation", 40))
    assert seen["test"] == numbers_of(data.evaluation("test", 40))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_batches_of_the_cpu():
    images = torch.randint(256, (64, 3, 8, 8), dtype=torch.uint8, generator=generator(0))
    split = Samples(images, torch.arange(64) % 4)
    how = {"num_classes": 4, "validation": 0.25, "seed": 3, "fingerprint": "f", "augmentation": "flip_crop"}
    cpu, gpu = (
        DeviceData("toy", split, split, mean=(0.5,) * 3, std=(0.2,) * 3, **how).to(d) for d in ("cpu", "cuda")
    )

    def batches(data):
        yield from data.epoch(1, 16, augment=True)
        yield from data.evaluation("validation", 16)
        yield data.balanced(2)

    for (x, y), (xx, yy) in zip(batches(cpu), batches(gpu)):
        assert xx.is_cuda and yy.is_cuda
        assert torch.equal(x, xx.cpu())
        assert torch.equal(y, yy.cpu())
