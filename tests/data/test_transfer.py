"""What goes to a device: shared while it is used, copied anew when it has changed, one batch ahead."""

import torch

from prune_bench.data.transfer import one_ahead, send, shared_copy


def test_a_tensor_that_is_there_already_is_itself():
    tensor = torch.arange(3)
    assert shared_copy(tensor, "cpu") is tensor
    assert send(tensor, torch.device("cpu")) is tensor


def test_a_tensor_that_was_changed_in_place_or_is_another_is_copied_anew():
    tensor, equal = torch.arange(3), torch.arange(3)
    copy = shared_copy(tensor, "meta")
    assert shared_copy(tensor, torch.device("meta")) is copy
    assert shared_copy(equal, "meta") is not copy
    tensor += 1
    assert shared_copy(tensor, "meta") is not copy


def test_every_item_comes_once_and_in_order_with_the_next_one_taken_before():
    taken = []

    def source(count):
        for item in range(count):
            taken.append(item)
            yield item

    ahead = one_ahead(source(3))
    assert [(item, len(taken)) for item in ahead] == [(0, 2), (1, 3), (2, 3)]
    assert list(one_ahead(source(1))) == [0]
    assert list(one_ahead(source(0))) == []


def test_a_source_is_used_up_before_the_last_item_is():
    ended = []

    def source():
        yield from range(2)
        ended.append(True)

    ahead = one_ahead(source())
    assert next(ahead) == 0 and not ended
    assert next(ahead) == 1 and ended
