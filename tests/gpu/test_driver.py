"""``torch.cuda`` before it is initialised, on the pretended driver and on a real one."""

import subprocess
import sys

import pytest
import torch

from tests.gpu.pretended import pretended_gpu

# What the first call of a fresh process does. What raises must be preceded by torch.cuda.init().
FIRST_CALLS = {
    "torch.cuda.reset_peak_memory_stats(0)": "raises",
    "torch.cuda.reset_accumulated_memory_stats(0)": "raises",
    "torch.cuda.is_available()": "nothing",
    "torch.cuda.device_count()": "nothing",
    "torch.cuda.memory_stats(0)": "nothing",
    "torch.cuda.max_memory_allocated(0)": "nothing",
    "torch.cuda.empty_cache()": "nothing",
    "torch.cuda.manual_seed_all(0)": "nothing",
    "torch.cuda.init()": "initialises",
    "torch.cuda.set_device(0)": "initialises",
    "torch.cuda.current_device()": "initialises",
    "torch.cuda.synchronize()": "initialises",
    "torch.cuda.get_rng_state('cuda:0')": "initialises",
    "torch.cuda.get_device_name(0)": "initialises",
    "torch.cuda.get_device_capability(0)": "initialises",
    "torch.cuda.is_bf16_supported()": "initialises",
    "torch.cuda.mem_get_info(0)": "initialises",
    "torch.cuda.set_sync_debug_mode(0)": "initialises",
    "torch.zeros(1, device='cuda:0')": "initialises",
    "torch.zeros(1).to('cuda:0')": "initialises",
}


def does(call: str) -> str:
    """What a call does, as the first of its process."""
    try:
        exec(call)
    except RuntimeError:
        return "raises"
    return "initialises" if torch.cuda.is_initialized() else "nothing"


@pytest.mark.parametrize("call", FIRST_CALLS)
def test_the_first_call_of_a_process(gpu, call):
    assert does(call) == FIRST_CALLS[call]


@pytest.mark.gpu
@pytest.mark.parametrize("call", FIRST_CALLS)
def test_the_first_call_of_a_process_on_a_real_gpu(cuda, call):
    program = f"from tests.gpu.test_driver import does; print(does({call!r}))"
    words = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert words.split()[-1] == FIRST_CALLS[call]


def test_statistics_can_be_reset_once_cuda_is_initialised(gpu):
    torch.cuda.init()
    torch.cuda.reset_peak_memory_stats(gpu.place)
    assert torch.cuda.max_memory_allocated(gpu.place) == 0


def test_a_seed_or_state_that_is_set_first_holds_once_cuda_is_initialised(gpu):
    torch.cuda.manual_seed_all(7)
    assert not torch.cuda.is_initialized()
    assert torch.cuda.initial_seed() == 7
    state = torch.cuda.get_rng_state(gpu.place)
    torch.cuda.manual_seed_all(8)
    torch.cuda.set_rng_state(state, gpu.place)
    assert torch.cuda.initial_seed() == 7


def test_a_gpu_that_is_not_there_is_refused_and_the_current_one_is_kept():
    with pretended_gpu(2) as gpu:
        torch.cuda.set_device(1)
        assert torch.zeros(1, device="cuda").device == gpu.place == torch.device("cuda:1")
        with pytest.raises(RuntimeError, match="ordinal"):
            torch.cuda.set_device(2)
        with torch.cuda.device(0):
            assert torch.cuda.current_device() == 0
        assert torch.cuda.current_device() == 1


def test_nothing_remains_of_it():
    before = (torch.cuda.is_available(), torch.cuda.is_initialized(), torch.Generator, torch.cuda.default_generators)
    with pretended_gpu():
        torch.zeros(1, device="cuda:0")
        assert torch.cuda.is_available()
        assert torch.cuda.is_initialized()
    after = (torch.cuda.is_available(), torch.cuda.is_initialized(), torch.Generator, torch.cuda.default_generators)
    assert after == before
