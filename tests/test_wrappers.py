"""Networks in wrappers, and outputs that are more than logits: the same ticket as of the bare network."""

import copy
from collections import OrderedDict, namedtuple
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

import prune_bench as pb
from prune_bench.errors import ConfigError, DataError, PruneBenchError
from prune_bench.mask import Mask, prunable_weights
from tests.conftest import TinyNet

SHORT = {"cts": {"steps": 3}, "cts_kl": {"steps": 3}, "synflow": {"steps": 3}}
METHODS = [method for method in pb.methods() if method != "dense"]


def batches(count=40):
    x = torch.randn(count, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return list(zip(x.split(10), (torch.arange(count) % 4).split(10)))


def bare():
    torch.manual_seed(0)
    return TinyNet()


def find(network, method="snip", density=0.3, **how):
    recipe = pb.Recipe(epochs=1, milestones=())
    return pb.find_mask(
        network, method, density=density, data=batches(), recipe=recipe, **SHORT.get(method, {}), **how
    )


@pytest.fixture
def process_group(tmp_path):
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def compiled(network):
    torch._dynamo.reset()
    return torch.compile(network, backend="eager")


def compiled_in_place(network):
    network.compile(backend="eager")
    return network


WRAPPERS = {
    "DataParallel": nn.DataParallel,
    "DDP": DistributedDataParallel,
    "compiled": compiled,
    "compiled in place": compiled_in_place,
    "compiled DDP": lambda network: compiled(DistributedDataParallel(network)),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("wrap", WRAPPERS)
def test_a_wrapped_network_has_the_ticket_of_the_bare_one(wrap, method, process_group):
    network = bare()
    wanted = find(network, method)
    wrapped = WRAPPERS[wrap](network)
    mask = find(wrapped, method)
    assert mask == wanted
    mask.apply_(wrapped)
    assert Mask.full(wrapped) == Mask.full(network)
    assert all(not weight[~mask[name]].any() for name, weight in prunable_weights(network).items())


@pytest.mark.parametrize("make", [torch.jit.script, lambda net: torch.jit.trace(net, batches()[0][0])])
def test_a_scripted_network_is_refused_in_one_line(make):
    with pytest.raises(ValueError, match=r"scripted or traced.* give the module it was made from"):
        find(make(bare()))


Named = namedtuple("Named", ["aux", "logits"])


class Output:
    def __init__(self, logits):
        self.loss, self.logits, self.hidden = None, logits, logits * 0


OUTPUTS = {
    "tuple": lambda logits: (logits, logits * 3),
    "list": lambda logits: [logits, None, 3],
    "named": lambda logits: Named(logits * 3, logits),
    "object": Output,
    "dict": lambda logits: {"features": logits * 3, "logits": logits},
    "ordered": lambda logits: OrderedDict(out=logits),
}


class Wrapped(nn.Module):
    """A network with another output, and a head that only the other output has."""

    def __init__(self, outputs):
        super().__init__()
        torch.manual_seed(0)
        self.net, self.outputs = TinyNet(), outputs

    def forward(self, x):
        return self.outputs(self.net(x))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", OUTPUTS)
def test_outputs_that_hold_logits_are_read(kind, method):
    plain, other = Wrapped(lambda logits: logits), Wrapped(OUTPUTS[kind])
    before = type(other(batches()[0][0]))
    assert find(other, method) == find(plain, method)
    assert type(other(batches()[0][0])) is before  # the caller's network gives what it gave


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        (lambda logits: {"a": logits, "b": logits}, "gives a dict with the keys a, b"),
        (lambda logits: (), "gives a tuple, in which no logits"),
        (lambda logits: None, "gives a NoneType"),
        (lambda logits: Output("x"), "gives a Output"),
        (lambda logits: logits[:, :, None, None], r"gives \[10, 4, 1, 1\] for a batch of 10"),
        (lambda logits: logits[:, 0], r"gives \[10\] for a batch of 10"),
        (lambda logits: logits[:1], r"gives \[1, 4\] for a batch of 10"),
        (lambda logits: (logits.repeat(1, 1, 1),), r"gives \[1, 10, 4\]"),
    ],
)
def test_outputs_that_are_no_logits_are_named(outputs, words):
    with pytest.raises((PruneBenchError, DataError), match=words):
        find(Wrapped(outputs))


class Auxiliary(nn.Module):
    """Gives an auxiliary head's logits in training only, as GoogLeNet does."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.aux = nn.Linear(16, 8), nn.Linear(8, 4), nn.Linear(8, 4)

    def forward(self, x):
        x = self.body(x.flatten(1)).relu()
        return (self.head(x), self.aux(x)) if self.training else self.head(x)


@pytest.mark.parametrize("method", METHODS)
def test_networks_with_auxiliary_heads_run_and_their_weights_get_no_score(method):
    mask = find(Auxiliary(), method)
    assert mask.kept == round(0.3 * mask.total)
    if method in ("snip", "synflow"):
        assert not mask["aux.weight"].any()


class Words(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words, self.rnn, self.head = nn.Embedding(9, 6), nn.LSTM(6, 5, batch_first=True), nn.Linear(5, 4)

    def forward(self, x):
        return self.head(self.rnn(self.words(x))[0][:, -1])


@pytest.mark.parametrize("method", METHODS)
def test_embeddings_and_recurrent_layers(method):
    words = torch.randint(9, (12, 7), generator=torch.Generator().manual_seed(0))
    data = [(words, torch.arange(12) % 4)]
    recipe = pb.Recipe(epochs=1, milestones=())

    def search(**how):
        return pb.find_mask(Words(), method, density=0.5, data=data, recipe=recipe, **SHORT.get(method, {}), **how)

    if method == "synflow":
        with pytest.raises(PruneBenchError, match="synflow passes ones, float64, and Words cannot take them"):
            search()
        return
    assert search().kept == 10
    if method == "cts_kl":
        assert search(objective="feature_mse").kept == 10
        assert search(precision="bfloat16").kept == 10


@pytest.mark.parametrize(
    "density",
    [np.float32(0.25), np.float64(0.25), np.float16(0.25), torch.tensor(0.25), np.array(0.25), Fraction(1, 4),
     Decimal("0.25"), torch.tensor([0.25])],
)  # fmt: skip
@pytest.mark.parametrize("method", ["snip", "random_erk", "ltr"])
def test_a_density_is_any_real_number(density, method):
    assert find(bare(), method, density) == find(bare(), method, 0.25)


def test_a_density_of_one_as_another_type():
    for one in (1, np.float32(1), np.int64(1), torch.tensor(1)):
        assert find(bare(), "dense", one).kept == 219


@pytest.mark.parametrize(
    "density",
    [True, "0.5", None, np.bool_(True), np.float32("nan"), torch.tensor([0.1, 0.2]), 1 + 0j, Fraction(3, 2),
     Decimal("NaN"), torch.tensor(True)],
)  # fmt: skip
def test_what_is_no_density_is_refused(density):
    with pytest.raises(ConfigError, match="density"):
        find(bare(), "snip", density)


@pytest.mark.parametrize("method", METHODS)
def test_a_density_that_keeps_no_weight_is_refused_and_the_least_named(method):
    with pytest.raises(ConfigError, match=r"keeps none of the 219 prunable weights: it must be above 0\.0023"):
        find(bare(), method, 0.002)
    assert find(bare(), method, 0.0024).kept == 1


class Flat(nn.Module):
    """Batch normalisation of one value a channel and sample."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.norm, self.head = nn.Linear(16, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)

    def forward(self, x):
        return self.head(self.norm(self.body(x.flatten(1))))


@pytest.mark.parametrize("method", ["snip", "grasp"])
@pytest.mark.parametrize("size", [1, 3, 13, 39])
def test_a_micro_batch_that_leaves_one_sample_is_named_where_that_matters(method, size):
    with pytest.raises(ConfigError, match=rf"micro_batch: {size} leaves a batch of one of the 40 samples"):
        find(Flat(), method, micro_batch=size)
    assert find(bare(), method, micro_batch=size).kept == 66  # its normalisation has 16 values a sample


def test_a_loader_that_leaves_one_sample_is_named():
    x, y = torch.randn(41, 1, 4, 4), torch.arange(41) % 4
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), 10)
    with pytest.raises(DataError, match=r"a batch of one sample.*drop_last=True"):
        pb.find_mask(Flat(), "ltr", density=0.5, data=loader, recipe=pb.Recipe(epochs=1, milestones=()))


def test_a_network_that_cannot_be_copied_is_one_line():
    network = bare()
    network.kept = network(batches()[0][0])  # an activation with its graph
    with pytest.raises(PruneBenchError, match="TinyNet cannot be copied"):
        find(network)


def test_a_held_network_is_searched_as_it_is_and_stays_held():
    network = bare()
    half = find(network, "snip", 0.5)
    applied = copy.deepcopy(network)
    half.apply_(applied)
    half.hold_(network)
    for method in ("magnitude", "snip", "ltr"):
        assert find(network, method, 0.1) == find(applied, method, 0.1)
    assert Mask.held_by(network) is not None
