"""Two processes that share every batch do what one does, up to the order of sums, in float64."""

import itertools

import pytest
import torch
from torch import nn

import prune_bench as pb
from prune_bench import parallel
from prune_bench.data import load_data
from prune_bench.files import LocalFiles
from prune_bench.mask import Mask, prunable_weights
from prune_bench.models import build_model
from prune_bench.packing import pack_data
from prune_bench.parallel import WholeBatches, rank
from prune_bench.pruners import pruners
from prune_bench.pruners.base import ScoringPruner
from prune_bench.randomness import generator
from prune_bench.ranking import check_agreement
from prune_bench.sweep.executors.ranks import launch
from prune_bench.training import Checkpoint, fit, train_lanes, trainer
from prune_bench.training.descent import Descent

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")
RECIPE = pb.Recipe(epochs=2, batch_size=32, milestones=(1,), weight_decay=1e-2, clip_norm=0.5, eval_batch_size=25)
STEPS = 2  # an epoch's
SEARCHES = {
    "snip": {},
    "snip, micro-batches": {"micro_batch": 15},
    "snip, absolute": {"micro_batch": 15, "accumulate": "absolute"},
    "snip, rounds": {"steps": 3},
    "grasp": {"micro_batch": 15},
    "synflow": {"steps": 3},
    "magnitude": {},
    "ltr": {},
    **{
        f"cts, {objective}": {"objective": objective, "steps": 4, "batch_size": 32}
        for objective in (
            "task_loss", "reverse_kl", "forward_kl", "loss_change", "feature_mse", "gradient_match", "gradient_norm"
        )
    },
}  # fmt: skip


class Doubles:
    """A data set whose images are float64."""

    def __init__(self, seed):
        options = {"samples": 96, "test_samples": 50, "image_size": 8, "channels": 1, "classes": 4, "validation": 0.1}
        self._data = load_data("synthetic", options, seed)
        self.num_classes, self.input_shape, self.samples = 4, self._data.input_shape, self._data.samples

    def steps_per_epoch(self, batch_size):
        return self._data.steps_per_epoch(batch_size)

    def epoch(self, *args, **how):
        return ((x.double(), y) for x, y in self._data.epoch(*args, **how))

    def evaluation(self, *args):
        return ((x.double(), y) for x, y in self._data.evaluation(*args))

    def balanced(self, per_class):
        x, y = self._data.balanced(per_class)
        return x.double(), y


def network(seed, running=False):
    shape = {"in_channels": 1, "image_size": 8, "num_classes": 4}
    made = build_model("resnet8", {"width": 4}, generator=generator(seed, "t"), **shape).double()
    if running:
        for module in [m for m in made.modules() if isinstance(m, nn.BatchNorm2d)]:
            module.track_running_stats = True
            module.register_buffer("running_mean", torch.zeros(module.num_features, dtype=torch.float64))
            module.register_buffer("running_var", torch.ones(module.num_features, dtype=torch.float64))
            module.register_buffer("num_batches_tracked", torch.tensor(0))
    return made


def search(label, lanes=1):
    """The last ranking found, what the search cost, and its curves."""
    entry = pruners.find(label.partition(",")[0], "method")
    options = entry.options(**SEARCHES[label])
    searches = [entry.build(network(s), (0.3,), options, recipe=RECIPE, seed=s) for s in range(lanes)]
    searches[0].join(searches[1:])
    data = pack_data([Doubles(s) for s in range(lanes)])
    fit(searches[0], searches[0].work(data), epochs=1, device=CPU)
    return [
        {
            "ranks": torch.cat([r.flatten() for r in s.found[0.3].layers.values()]),
            "passes": (s.forwards, s.backwards),
            "curves": s.curves,
            "summary": s.summary,
        }
        for s in searches
    ]


def training(lanes=1, checkpoint=None, recipe=RECIPE, dropout=0.0, **how):
    networks = [network(seed, **how) for seed in range(lanes)]
    if dropout:
        torch.manual_seed(rank())
        networks = [nn.Sequential(net, nn.Dropout(dropout)) for net in networks]
    draw = torch.Generator().manual_seed(0)
    masks = [
        Mask({n: torch.rand(w.shape, generator=draw) < 0.4 for n, w in prunable_weights(net).items()})
        for net in networks
    ]
    data = pack_data([Doubles(seed) for seed in range(lanes)])
    trained = train_lanes(networks, masks, recipe, data, device=CPU, checkpoint=checkpoint)
    return [{"state": lane.network.state_dict(), "curves": lane.curves} for lane in trained]


def cut_off_training(files, **how):
    """A training that raises in its second epoch on every rank, and its going on."""
    real, steps = Descent.step, itertools.count(1)

    def step(self, x, y):
        if next(steps) == RECIPE.epochs * STEPS:
            raise KeyboardInterrupt
        return real(self, x, y)

    checkpoint = Checkpoint(files=files, name="t.ckpt", every=0.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Descent, "step", step)
        with pytest.raises(KeyboardInterrupt):
            training(checkpoint=checkpoint, **how)
    assert files.exists("t.ckpt")
    return training(checkpoint=checkpoint, **how)


def everything(folder):
    with WholeBatches():
        found = {label: search(label) for label in SEARCHES}
        found["cts, packed"] = search("cts, task_loss", lanes=2)
        found["training"] = training()
        found["training, packed"] = training(lanes=2)
        found["training, running statistics"] = training(running=True)
        found["training, cut off"] = cut_off_training(LocalFiles(folder))
        found["dropout"] = training(dropout=0.2)
        found["dropout, cut off"] = cut_off_training(LocalFiles(folder / "dropout"), dropout=0.2)
    return found


def write_everything(device, folder):
    torch.set_num_threads(1)
    torch.save(everything(folder) | {"trainer": trainer_of(device)}, folder / f"{rank()}.pt")


def trainer_of(device):
    """What the Trainer that a stage is fitted by takes itself for."""
    made = trainer._trainer(1, torch.device(device), None)
    return {"strategy": type(made.strategy).__name__, "world": made.world_size, "rank": made.global_rank}


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    launch(write_everything, ["cpu", "cpu"], folder)
    return [torch.load(folder / f"{index}.pt") for index in range(2)]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return everything(tmp_path_factory.mktemp("alone"))


TRAININGS = ["training", "training, packed", "training, running statistics", "training, cut off"]
CASES = [*SEARCHES, "cts, packed", *TRAININGS]


@pytest.mark.parametrize("label", CASES)
def test_two_ranks_find_what_one_process_finds(label, found, alone):
    for ours, wanted in zip(found[0][label], alone[label], strict=True):
        # Losses are added up in float32.
        torch.testing.assert_close(ours["curves"], wanted["curves"], rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(ours | {"curves": []}, wanted | {"curves": []}, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("label", CASES)
def test_the_ranks_hold_the_same_bits(label, found):
    torch.testing.assert_close(found[0][label], found[1][label], rtol=0, atol=0)


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("label", ["training", "dropout"])
def test_a_training_of_two_ranks_that_was_cut_off_ends_with_the_same_bits(label, index, found):
    torch.testing.assert_close(found[index][f"{label}, cut off"], found[index][label], rtol=0, atol=0)


@pytest.mark.parametrize("index", [0, 1])
def test_to_lightning_a_rank_is_a_process_with_one_device_of_its_own(index, found):
    assert found[index]["trainer"] == {"strategy": "SingleDeviceStrategy", "world": 1, "rank": 0}


def test_shares_are_all_rows_in_their_order_and_a_batch_too_small_is_told(monkeypatch):
    monkeypatch.setattr(parallel, "ranks", lambda: 3)
    items, shares = torch.arange(8), []
    for index in range(3):
        monkeypatch.setattr(parallel, "rank", lambda index=index: index)
        shares.append(parallel.share(items))
    assert torch.equal(torch.cat(shares), items)
    assert {len(piece) for piece in shares} == {2, 3}
    with pytest.raises(ValueError, match="a batch of 2 cannot be shared by 3 devices"):
        parallel.share(items[:2])


def test_a_callers_own_process_group_makes_no_ranks(monkeypatch):
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda group=None: 2)
    x = torch.arange(4.0)
    assert parallel.ranks() == 1
    assert parallel.share(x) is x and parallel.summed(x) is x


def test_normalisation_of_a_share_in_bfloat16_sums_in_float32():
    torch.manual_seed(0)
    x, weight, bias = (3 + torch.randn(300, 4, 2, 2)).bfloat16(), torch.rand(4), torch.rand(4)
    running = [[torch.zeros(4), torch.ones(4)] for _ in range(2)]
    ours = parallel._batch_norm(x, *running[0], weight, bias, training=True, momentum=0.1, eps=1e-5)
    theirs = nn.functional.batch_norm(x, *running[1], weight, bias, training=True)
    assert ours.dtype == theirs.dtype == torch.bfloat16
    torch.testing.assert_close(ours, theirs, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(running[0], running[1], rtol=1e-5, atol=1e-5)


class OfItsShare(ScoringPruner):
    """Scores by its own share of the batch, and forgets that there are others."""

    def score(self, batches):
        (x, y), weights = batches[0], self._weights()
        loss = nn.functional.cross_entropy(self.network(parallel.share(x)), parallel.share(y))
        gradients = torch.autograd.grad(loss, list(weights.values()))
        return {name: gradient.abs() for name, gradient in zip(weights, gradients)}


def _find_apart(device):
    for scoring, agree in ((pruners["snip"].build, True), (OfItsShare, False)):
        searching = scoring(network(0), (0.3,), pruners["snip"].options())
        fit(searching, searching.work(Doubles(0)), epochs=1, device=CPU)
        if agree:
            check_agreement([searching.found], "snip", CPU)
        else:
            with pytest.raises(RuntimeError, match="another ranking in each of the 2 processes"):
                check_agreement([searching.found], "mine", CPU)


def test_a_pruner_that_sums_nothing_over_processes_is_found_out():
    launch(_find_apart, ["cpu", "cpu"])
