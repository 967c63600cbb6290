"""The batched augmentation does to each image what a plain loop with torch's own padding does."""

import torch
from torch.nn import functional as F

from prune_bench.data.augment import (
    PAD,
    FlipCrop,
    Normalisation,
    draw_flip_crop,
    flip_crop,
    look_up,
    normalise,
    source_pixels,
)
from prune_bench.randomness import generator


def one_by_one(images, index, how):
    out = []
    for i, flipped, (down, right) in zip(index.tolist(), how.flips.tolist(), how.shifts.tolist()):
        image = images[i].flip(-1) if flipped else images[i]
        padded = F.pad(image[None].float(), (PAD,) * 4, mode="reflect")[0].to(torch.uint8)
        out.append(padded[:, down : down + image.shape[1], right : right + image.shape[2]])
    return torch.stack(out)


def altered(images, index, how):
    return flip_crop(images, index, source_pixels(*images.shape[2:])[how.numbers()])


def test_flips_and_crops_are_those_of_a_loop_over_padded_images():
    images = torch.randint(256, (7, 3, 6, 9), dtype=torch.uint8, generator=generator(0))
    index = torch.randint(7, (64,), generator=generator(1))
    how = draw_flip_crop(64, generator(2))
    assert torch.equal(altered(images, index, how), one_by_one(images, index, how))


def test_the_furthest_shifts_reach_the_corners_of_the_padding():
    images = torch.arange(25, dtype=torch.uint8).view(1, 1, 5, 5)
    how = FlipCrop(torch.zeros(2, dtype=torch.bool), torch.tensor([[0, 0], [2 * PAD, 2 * PAD]]))
    first, last = altered(images, torch.zeros(2, dtype=torch.long), how)[:, 0]
    assert first[0].tolist() == [24, 23, 22, 21, 20]
    assert last[-1].tolist() == [4, 3, 2, 1, 0]


def test_an_unflipped_unshifted_image_is_itself():
    images = torch.randint(256, (2, 1, 8, 8), dtype=torch.uint8, generator=generator(0))
    how = FlipCrop(torch.zeros(2, dtype=torch.bool), torch.full((2, 2), PAD))
    assert torch.equal(altered(images, torch.arange(2), how), images)


def test_every_flip_and_shift_is_equally_likely():
    how = draw_flip_crop(90_000, generator(0))
    assert abs(float(how.flips.double().mean()) - 0.5) < 0.01
    for shifts in how.shifts.T:
        counts = torch.bincount(shifts)
        assert len(counts) == 2 * PAD + 1 and (counts - 10_000).abs().max() < 500


def test_pixels_are_normalised_channel_by_channel():
    images = torch.tensor([0, 255], dtype=torch.uint8).view(1, 2, 1, 1)
    mean, std = torch.tensor([0.5, 0.25]).view(2, 1, 1), torch.tensor([0.25, 0.5]).view(2, 1, 1)
    assert normalise(images, mean, std).flatten().tolist() == [-2.0, 1.5]


def test_a_table_of_values_has_the_bits_of_the_arithmetic_at_every_level_of_every_channel():
    images = torch.arange(256, dtype=torch.uint8).repeat(2, 3, 1).view(2, 3, 16, 16)
    mean, std = torch.rand(3, 1, 1, generator=generator(0)), 0.1 + torch.rand(3, 1, 1, generator=generator(1))
    table = Normalisation(mean.flatten().tolist(), std.flatten().tolist())._table
    by_hand = ((images.float() / 255) - mean) / std
    assert torch.equal(look_up(images, table), by_hand)
    assert torch.equal(normalise(images, mean, std), by_hand)
    assert torch.equal(look_up(images, table[:1]), normalise(images, mean[:1], std[:1]))  # one value for all channels
