"""Data that a user brings to find_mask: read as little as a method needs, and refused in one clear line."""

import itertools

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import prune_bench as pb
from prune_bench.errors import ConfigError, DataError
from tests.conftest import TinyNet

SHORT = {"cts": {"steps": 3}, "cts_kl": {"steps": 3}, "synflow": {"steps": 3}}
RECIPE = pb.Recipe(epochs=1, milestones=())
LOOKS_AT_NONE = ("magnitude", "random", "random_erk", "synflow", "dense")
LOOKS = [method for method in pb.methods() if method not in LOOKS_AT_NONE]


@pytest.fixture
def network():
    torch.manual_seed(0)
    return TinyNet()


def find(network, method, data, **how):
    density = 1.0 if method == "dense" else 0.3
    return pb.find_mask(network, method, density=density, data=data, recipe=RECIPE, **SHORT.get(method, {}), **how)


def samples(count=40):
    x = torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return x, torch.arange(count) % 4


def cut(x, y, size=10):
    return list(zip(x.split(size), y.split(size)))


class Counted:
    """Batches that can be gone through again, and how many were asked for."""

    def __init__(self, batches):
        self._batches, self.read = batches, 0

    def __iter__(self):
        for batch in self._batches():
            self.read += 1
            yield batch


@pytest.mark.parametrize("method", LOOKS_AT_NONE)
def test_methods_that_look_at_no_sample_need_no_data_and_give_the_same_mask(network, method):
    endless = Counted(lambda: itertools.repeat(samples(8)))
    assert find(network, method, None) == find(network, method, cut(*samples())) == find(network, method, endless)
    assert endless.read == (method == "synflow")  # for the shape


@pytest.mark.parametrize("method", LOOKS)
def test_methods_that_look_at_samples_say_that_they_need_them(network, method):
    with pytest.raises(ConfigError, match="data: None is not enough"):
        find(network, method, None)


@pytest.mark.parametrize("method", ["snip", "grasp", "cts", "cts_kl"])
def test_of_an_endless_loader_no_more_is_read_than_is_needed(network, method):
    x, y = samples()
    endless = Counted(lambda: itertools.cycle(cut(x, y)))
    how = {"samples_per_class": 5} if method in ("snip", "grasp") else {}
    mask = find(network, method, endless, **how)
    assert endless.read == 1 + (2 if method in ("snip", "grasp") else 3)  # the first tells the number of classes
    assert mask.kept == round(0.3 * 219)


def test_what_needs_whole_epochs_refuses_a_stream(network):
    for method, how in (("ltr", {}), ("cts", {"steps": None})):
        with pytest.raises(DataError, match="no epochs, for it may never end"):
            pb.find_mask(
                network, method, density=0.3, data=Counted(lambda: itertools.repeat(samples(8))), recipe=RECIPE, **how
            )


def test_a_class_that_never_comes_ends_the_search_in_a_stream_with_a_warning(network, monkeypatch):
    monkeypatch.setattr("prune_bench.data.user._PATIENCE", 20)
    x, _ = samples(8)
    endless = Counted(lambda: itertools.repeat((x, torch.arange(8) % 3)))
    with pytest.warns(UserWarning, match=r"nothing more of the classes \[3\]"):
        find(network, "snip", endless)
    assert endless.read < 30


class Once(IterableDataset):
    """A data set over a generator that is used up."""

    def __init__(self):
        self._left = iter(zip(*samples()))

    def __iter__(self):
        return self._left

    def __len__(self):
        return 40


class Kept:
    def __init__(self, batches):
        self._left = iter(batches)

    def __iter__(self):
        return self._left


@pytest.mark.parametrize("method", LOOKS)
@pytest.mark.parametrize(
    "once",
    [
        lambda: iter(DataLoader(TensorDataset(*samples()), 10)),
        lambda: (batch for batch in cut(*samples())),
        lambda: zip(*(t.split(10) for t in samples())),
        lambda: map(tuple, cut(*samples())),
        lambda: Kept(cut(*samples())),
    ],
)
def test_what_can_be_gone_through_once_is_refused_with_the_mend(network, method, once):
    with pytest.raises(DataError, match=r"once only.*give the loader itself, or list"):
        find(network, method, once())


def test_a_loader_that_is_found_empty_later_is_no_training_on_nothing(network):
    with pytest.raises(DataError, match="once only"):
        pb.find_mask(
            network, "ltr", density=0.3, data=DataLoader(Once(), 10), recipe=pb.Recipe(epochs=3, milestones=())
        )


def test_a_loader_whose_workers_stay_can_be_gone_through_again(network):
    loader = DataLoader(TensorDataset(*samples()), 10, num_workers=1, persistent_workers=True)
    assert find(network, "snip", loader) == find(network, "snip", DataLoader(TensorDataset(*samples()), 10))


def test_two_tensors_are_one_batch(network):
    assert find(network, "snip", samples()) == find(network, "snip", [samples()])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (TensorDataset(*samples()), "gives samples and no batches: give DataLoader"),
        (3, "a int is no data"),
        ({"x": 1}, "one is a str"),
        ([{"x": 1}], "one is a dict"),
        ([(samples()[0], [1, 2])], "pair of tensors"),
        (
            [(torch.ones(8, 1, 5, 5), torch.arange(8) % 4)],
            r"TinyNet cannot be run on a batch torch.float32 \[8, 1, 5",
        ),
        ([(samples()[0].to(torch.uint8), samples()[1])], "cannot be run on a batch torch.uint8"),
        ([(samples()[0].double(), samples()[1])], "cannot be run on a batch torch.float64"),
    ],
)
def test_other_data_is_named(network, data, words):
    with pytest.raises(DataError, match=words):
        find(network, "snip", data)


class Any(nn.Module):
    """Takes images of any size."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

    def forward(self, x):
        return self.head(self.conv(x).mean((2, 3)))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("made", "shape"),
    [
        (lambda: nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 2)), (7,)),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 5)), (3, 2, 2)),
        (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 30 * 30, 5)), (3, 32, 32)),
        (lambda: nn.Sequential(nn.Conv1d(2, 4, 3), nn.Flatten(), nn.Linear(4 * 9, 5)), (2, 11)),
        (lambda: nn.Sequential(nn.Conv3d(1, 2, 3), nn.Flatten(), nn.Linear(2 * 27, 5)), (1, 5, 5, 5)),
    ],
)
def test_synflow_finds_its_inputs_shape_where_only_one_fits(made, shape):
    torch.manual_seed(0)
    network = made()
    batch = (torch.randn(4, *shape), torch.arange(4) % 2)
    assert find(network, "synflow", None) == find(network, "synflow", [batch])
    assert find(network, "synflow", None) == find(network, "synflow", None, input_shape=shape)


def test_synflow_says_what_it_took_where_several_shapes_fit_and_asks_where_none_is_found():
    with pytest.warns(UserWarning, match=r"not certain, and \(3, 224, 224\) was taken"):
        find(Any(), "synflow", None)
    words = nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(8, 2))
    with pytest.raises(ConfigError, match="input_shape: None is not known"):
        find(words, "synflow", None)
    told = Any()
    told.example_input_array = torch.zeros(1, 3, 9, 6)
    assert find(told, "synflow", None) == find(told, "synflow", None, input_shape=(3, 9, 6))
