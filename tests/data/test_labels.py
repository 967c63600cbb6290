"""Labels are taken for what they are without doubt, or refused by name; never dropped."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import prune_bench as pb
from prune_bench.data.device import DeviceData
from prune_bench.data.labels import check_labels
from prune_bench.data.protocol import Samples
from prune_bench.errors import DataError
from tests.conftest import TinyNet
from tests.data.test_user import RECIPE, samples

RIGHT = torch.arange(40) % 4
WRONG = {
    "from 1": (RIGHT + 1, r"from 1 to 4, 10 of 40 .*such as 4\).*0 to 3; use labels - 1"),
    "-1": (torch.where(RIGHT == 2, -1, RIGHT), r"from -1 to 3.*such as -1\).*negative"),
    "ignored": (torch.where(RIGHT == 2, -100, RIGHT), r"such as -100\)"),
    "all out": (RIGHT + 50, r"40 of 40 are out of range"),
    "with a gap": (RIGHT * 5, r"number the classes from 0"),
    "one-hot": (F.one_hot(RIGHT), r"one-hot, int64 \[40, 4\].*use labels\.argmax\(1\)"),
    "float one-hot": (F.one_hot(RIGHT).float(), r"one-hot, float32 \[40, 4\].*use labels\.argmax\(1\)"),
    "soft": (torch.rand(40, 4), r"float32 \[40, 4\].*use labels\.argmax\(1\)"),
    "float": (RIGHT.float(), r"float32 \[40\].*use labels\.long\(\)"),
    "float column": (RIGHT.float()[:, None], r"float32 \[40, 1\]"),
    "NaN": (torch.full((40,), float("nan")), r"NaN in part, float32 \[40\]"),
    "bool": (RIGHT > 1, r"bool \[40\].*use labels\.long\(\)"),
    "maps": (torch.zeros(40, 4, 4, dtype=torch.int64), r"int64 \[40, 4, 4\].*one label a sample"),
    "complex": (RIGHT.to(torch.complex64), r"complex64"),
}


def network():
    torch.manual_seed(0)
    return TinyNet()


def as_loader(x, y):
    return DataLoader(TensorDataset(x, y), 10)


def as_list(x, y):
    return list(zip(x.split(10), y.split(10)))


@pytest.mark.parametrize("give", [as_loader, as_list, lambda x, y: (x, y)])
@pytest.mark.parametrize("kind", WRONG)
def test_wrong_labels_are_named_with_what_is_wanted(kind, give):
    labels, words = WRONG[kind]
    words = (
        words
        if give is not as_loader and give is not as_list
        else words.replace("40", r"\d+").replace("10 of", r"\d+ of")
    )
    with pytest.raises(DataError, match=words):
        pb.find_mask(network(), "snip", density=0.3, data=give(samples()[0], labels))


@pytest.mark.parametrize("method", ["grasp", "ltr", "cts", "cts_kl"])
def test_every_method_that_looks_at_labels_checks_them(method):
    how = {"steps": 2} if "cts" in method else {}
    with pytest.raises(DataError, match="the labels run from 1 to 4"):
        pb.find_mask(network(), method, density=0.3, data=as_loader(samples()[0], RIGHT + 1), recipe=RECIPE, **how)


@pytest.mark.parametrize("give", [as_loader, as_list])
@pytest.mark.parametrize(
    "same",
    [
        lambda y: y[:, None], lambda y: y.to(torch.uint8), lambda y: y.int()[:, None], lambda y: y.short(),
        lambda y: torch.stack([y, y], 1)[:, 0],
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["snip", "ltr"])
def test_other_spellings_of_the_same_labels_change_no_mask(method, same, give):
    def find(y):
        return pb.find_mask(network(), method, density=0.3, data=give(samples()[0], y), recipe=RECIPE)

    assert find(same(RIGHT)) == find(RIGHT)


def test_a_label_too_few_a_scalar_and_one_output_unit():
    x, y = samples()
    with pytest.raises(DataError, match="there are 40 inputs"):
        pb.find_mask(network(), "snip", density=0.3, data=[(x, y[1:])])
    with pytest.raises(DataError, match=r"int64 \[\]"):
        pb.find_mask(network(), "snip", density=0.3, data=[(x, torch.tensor(3))])
    one = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 1))
    for labels in (y.clamp(max=1), y[:, None].clamp(max=1).float()):
        with pytest.raises(DataError, match="one output unit"):
            pb.find_mask(one, "snip", density=0.3, data=[(x, labels)])


def test_a_wrong_label_in_a_later_batch_of_a_list_is_found_before_anything_is_done():
    x, y = samples()
    y = torch.cat([y[:-1], torch.tensor([7])])
    with pytest.raises(DataError, match="1 of 10 are out of range"):
        pb.find_mask(network(), "ltr", density=0.3, data=as_list(x, y), recipe=RECIPE)


def test_classes_that_are_absent_are_no_fault():
    assert check_labels(torch.tensor([3, 0]), 2, 10).tolist() == [3, 0]
    assert check_labels(torch.from_numpy(np.array([1, 2], dtype=np.int32)), 2, 10).dtype == torch.int64


def data_set(images, labels, **how):
    split = Samples(images, labels)
    return DeviceData(
        "mine", split, split, num_classes=4, mean=(0.5,), std=(0.25,), augmentation="none", validation=0.0, seed=0,
        fingerprint="f", **how,
    )  # fmt: skip


PIXELS = torch.randint(256, (40, 1, 4, 4), generator=torch.Generator().manual_seed(0)).to(torch.uint8)


def test_a_contributed_data_set_with_a_column_of_labels_is_the_same_data_set():
    one, other = data_set(PIXELS, RIGHT), data_set(PIXELS, RIGHT[:, None])
    for (x, y), (xx, yy) in zip(one.epoch(0, 16, augment=True), other.epoch(0, 16, augment=True), strict=True):
        assert torch.equal(x, xx) and torch.equal(y, yy) and yy.shape == (16,)
    assert torch.equal(one.balanced(3)[1], other.balanced(3)[1])


@pytest.mark.parametrize("kind", WRONG)
def test_a_contributed_data_set_with_wrong_labels_is_refused_when_it_is_made(kind):
    with pytest.raises(DataError, match=f"mine: .*{WRONG[kind][1]}"):
        data_set(PIXELS, WRONG[kind][0])


def test_pixels_from_0_to_1_are_not_divided_again():
    raw, unit = data_set(PIXELS, RIGHT), data_set(PIXELS.float() / 255, RIGHT)
    for (x, _), (xx, _) in zip(raw.evaluation("test", 16), unit.evaluation("test", 16), strict=True):
        torch.testing.assert_close(xx, x, rtol=0, atol=1e-5)
        wanted = (x.double() * 0.25 + 0.5) * 255
        torch.testing.assert_close(wanted, wanted.round(), rtol=0, atol=1e-3)
    tall = data_set(PIXELS.float(), RIGHT)
    assert torch.equal(next(tall.evaluation("test", 16))[0], next(raw.evaluation("test", 16))[0])


@pytest.mark.parametrize(
    ("images", "words"),
    [
        ((PIXELS.float() / 255 - 0.5) / 0.25, r"mine: .*float32 .*from -2.* to 2"),
        (PIXELS.to(torch.int32) * 257, r"int32 .*from \d+ to 6\d+"),
        (PIXELS.float() * float("nan"), "nan"),
        (PIXELS.bool(), "bool"),
        (PIXELS[0], r"wanted are images \[N, C, H, W\]"),
    ],
)
def test_pixels_of_an_unknown_scale_are_refused(images, words):
    with pytest.raises(DataError, match=words):
        data_set(images, RIGHT)
