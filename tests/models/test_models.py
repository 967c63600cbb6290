"""Networks are what their papers say, and their weights hang on one generator only."""

import math

import pytest
import torch
from torch import nn

from prune_bench.errors import ConfigError
from prune_bench.mask import Mask, kept_count
from prune_bench.metrics import flops
from prune_bench.models import build_model, initialise_, models
from prune_bench.options import option_table
from prune_bench.randomness import generator

SMALL = {"resnet": {"width": 2}, "vgg": {"width": 2}, "lenet300_100": {"hidden": [4, 3]}}


def build(name, options=None, *, channels=1, size=8, classes=10, seed=0):
    return build_model(
        name, options or {}, in_channels=channels, image_size=size, num_classes=classes, generator=generator(seed)
    )


def small(name, **how):
    torchvision = name in ("resnet18", "resnet50")
    options = {} if torchvision else next(o for family, o in SMALL.items() if name.startswith(family))
    return build(name, options, **how)


def prunable(network):
    return sum(m.weight.numel() for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))


def test_resnet8_of_width_8_has_the_prunable_weights_of_the_prototype():
    assert prunable(build("resnet8", {"width": 8})) == 19_464


def test_resnet20_has_the_prunable_weights_counted_by_hand():
    stem = 3 * 16 * 9
    stage1 = 6 * 16 * 16 * 9
    stage2 = 16 * 32 * 9 + 16 * 32 + 5 * 32 * 32 * 9
    stage3 = 32 * 64 * 9 + 32 * 64 + 5 * 64 * 64 * 9
    assert prunable(build("resnet20", channels=3, size=32)) == stem + stage1 + stage2 + stage3 + 64 * 10


def test_vgg16_has_thirteen_convolutions_without_bias_and_one_linear_layer():
    network = small("vgg16", size=32)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [2] * 2 + [4] * 2 + [8] * 3 + [16] * 6
    assert all(m.bias is None for m in convolutions)
    assert [m.in_features for m in network.modules() if isinstance(m, nn.Linear)] == [16]


def test_a_resnet20_with_shortcuts_of_3x3_convolutions_has_the_published_number_of_weights():
    network = build("resnet20", {"shortcut": "conv3"}, channels=3, size=32)
    assert Mask.full(network).total == prunable(network) == 291_376
    assert kept_count(0.8**22, 291_376) == 2_150 and kept_count(0.8**22, 270_896) == 1_999


def test_a_vgg16_without_last_pool_and_with_a_dense_classifier_is_the_published_one():
    network = build("vgg16", {"last_pool": False, "prune_classifier": False}, channels=3, size=32)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert Mask.full(network).total == sum(m.weight.numel() for m in convolutions) == 14_710_464
    assert sum(isinstance(m, nn.MaxPool2d) for m in network.modules()) == 4
    shapes = []
    network[-3].register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape))
    network(torch.randn(2, 3, 32, 32))
    assert isinstance(network[-3], nn.AdaptiveAvgPool2d) and shapes == [(2, 512, 2, 2)]


def test_a_padded_shortcut_is_every_second_pixel_and_channels_of_zeros_lane_by_lane():
    network, x = build("resnet8", {"width": 2, "shortcut": "pad"}), torch.randn(3, 4, 6, 6, generator=generator(1))
    assert Mask.full(network).total == 1 * 2 * 9 + 2 * 36 + 72 + 144 + 288 + 576 + 8 * 10
    shortcut = network.layer2[0].shortcut
    expected = torch.zeros(3, 8, 3, 3)
    expected[:, 0:2], expected[:, 4:6] = x[:, 0:2, ::2, ::2], x[:, 2:4, ::2, ::2]
    torch.testing.assert_close(shortcut(x), expected, rtol=0, atol=0)
    torch.testing.assert_close(shortcut(x[:, :2]), expected[:, :4], rtol=0, atol=0)


def test_a_layer_that_is_not_prunable_stays_whole_everywhere():
    network = build("vgg11", {"width": 2, "prune_classifier": False}, size=8)
    mask = Mask.full(network).shuffle_layers(0)
    assert len(mask) == 8 == sum(isinstance(m, nn.Conv2d) for m in network.modules())
    empty = Mask({name: torch.zeros_like(keep) for name, keep in mask.items()})
    operations = flops(network, empty, (1, 8, 8))
    assert operations.sparse == 2 * network[-1].weight.numel() < operations.dense
    empty.apply_(network)
    assert bool((network[-1].weight != 0).all())
    pruned = mask.to_torch_prune(network)
    assert not hasattr(pruned[-1], "weight_mask") and Mask.from_torch_prune(pruned) == mask


def test_options_at_their_default_build_the_network_that_was_there_before_them():
    said = {"shortcut": "conv1"}
    assert build("resnet8", said).state_dict().keys() == build("resnet8").state_dict().keys()
    assert build("vgg11", {"width": 2, "last_pool": True}, size=32)(torch.zeros(2, 1, 32, 32)).shape == (2, 10)


def test_lenet_has_the_prunable_weights_of_its_name():
    assert prunable(build("lenet300_100", size=28)) == 784 * 300 + 300 * 100 + 100 * 10


@pytest.mark.parametrize("name", [name for name in models if name not in ("resnet50", "resnet56", "vgg19")])
def test_a_network_maps_the_smallest_images_to_logits_and_every_weight_gets_a_gradient(name):
    network = small(name, classes=3)
    logits = network(torch.randn(4, 1, 8, 8, generator=generator(1)))
    assert logits.shape == (4, 3) and logits.isfinite().all()
    logits.square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize("name", ["resnet8", "vgg11", "resnet18"])
def test_normalisation_has_no_running_statistics_and_evaluates_as_it_trains(name):
    network = small(name)
    x = torch.randn(8, 1, 8, 8, generator=generator(1))
    assert not list(network.buffers())
    with torch.no_grad():
        torch.testing.assert_close(network.train()(x), network.eval()(x), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["resnet8", "vgg11", "lenet300_100", "resnet18"])
def test_activations_are_modules_that_leave_their_input_alone(name):
    relus = [m for m in small(name).modules() if isinstance(m, nn.ReLU)]
    assert relus and not any(relu.inplace for relu in relus)


def test_each_activation_of_a_small_resnet_is_a_module_of_its_own():
    network, calls = small("resnet20"), []
    for relu in (m for m in network.modules() if isinstance(m, nn.ReLU)):
        relu.register_forward_hook(lambda module, *_: calls.append(module))
    network(torch.randn(2, 1, 8, 8))
    assert len(calls) == len(set(calls)) == 1 + 9 * 2


def test_a_torchvision_resnet_keeps_the_resolution_of_small_images_only():
    with torch.device("meta"):
        for size, after_stem in ((64, 64), (65, 17)):
            network = models["resnet18"].build(None, in_channels=3, image_size=size, num_classes=10)
            x = network.maxpool(network.conv1(torch.empty(2, 3, size, size)))
            assert x.shape[2:] == (after_stem, after_stem)


def test_weights_hang_on_the_generator_alone_and_global_randomness_stays_untouched():
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = small("resnet8", seed=7).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    again, other = small("resnet8", seed=7).state_dict(), small("resnet8", seed=8).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["conv1.weight"], other["conv1.weight"])


def test_a_layer_unknown_to_the_initialiser_is_drawn_from_the_generator_too(monkeypatch):
    monkeypatch.setattr(models, "_entries", dict(models._entries))

    @models.add("table", options=models["resnet18"].options, source="", summary="")
    def table(options, *, in_channels, image_size, num_classes):
        return nn.Embedding(num_classes, 2)

    torch.manual_seed(1)
    first = build("table", seed=3).weight
    torch.manual_seed(2)
    assert torch.equal(first, build("table", seed=3).weight)


def test_weights_are_kaiming_normal_normalisation_uniform_and_biases_zero():
    network = nn.Sequential(nn.Conv2d(32, 64, 3), nn.BatchNorm2d(4096), nn.Linear(512, 64))
    torch.nn.init.ones_(network[0].bias)
    initialise_(network, generator(0))
    conv, norm, linear = network
    # With tens of thousands of draws the deviation of a sample's deviation is below one percent.
    assert float(conv.weight.detach().std()) == pytest.approx(math.sqrt(2 / (32 * 9)), rel=0.03)
    assert float(linear.weight.detach().std()) == pytest.approx(math.sqrt(2 / 512), rel=0.03)
    assert bool((norm.weight >= 0).all()) and bool((norm.weight < 1).all())
    assert float(norm.weight.detach().mean()) == pytest.approx(0.5, abs=0.03)
    assert not any(module.bias.any() for module in network)


def test_initialisation_draws_in_module_order():
    network = initialise_(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)), generator(5))
    source = generator(5)
    first = torch.empty(3, 4).normal_(0, math.sqrt(2 / 4), generator=source)
    second = torch.empty(2, 3).normal_(0, math.sqrt(2 / 3), generator=source)
    torch.testing.assert_close(network[0].weight.detach(), first)
    torch.testing.assert_close(network[1].weight.detach(), second)


def test_an_unknown_network_or_option_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match=r"model\.name.*resnet20"):
        build("resnet21")
    with pytest.raises(ConfigError, match=r"model\.widht.*width"):
        build("resnet20", {"widht": 3})


def test_every_network_is_documented():
    for entry in models.values():
        assert entry.source and entry.summary
        assert all(row["meaning"] for row in option_table(entry.options))
