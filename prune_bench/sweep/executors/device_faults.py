"""Whose fault an error is, by its kind and words: a stage's own, full memory, or the device's.

The same event has many texts. The allocator, CUDA itself, cuBLAS, cuDNN, NCCL and the host each say "out of memory"
in their own way, and only the allocator has an exception of its own for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import BrokenExecutor
from enum import Enum

from prune_bench.errors import message_of


class Fault(Enum):
    """Whose fault an error is."""

    STAGE = "the stage's: a second try would end alike"
    MEMORY = "full memory: fewer lanes, or no neighbours, may fit"
    ASSERT = "the stage's, and the process cannot use its device any more"
    START = "the device's: it failed before there was any work"
    DEVICE = "the device's, or of the process's hold on it"


class DeviceFault(BrokenExecutor):
    """A device fails, or this process can use it no more: the process must end.

    Args:
        reason: One line.
        fault: ``START``, ``DEVICE``, or ``ASSERT``.
    """

    def __init__(self, reason: str, fault: Fault = Fault.DEVICE) -> None:
        super().__init__(reason)
        self.fault = fault


_MEMORY_KINDS = {"OutOfMemoryError", "MemoryError", "_ArrayMemoryError"}
_MEMORY = re.compile(
    r"""out[ ]of[ ]memory                       # the allocator's, CUDA's, HIP's, MPS's; NCCL quotes it
    | \w*ALLOC(ATION)?_FAILED\b                 # of cuBLAS, cuDNN, cuSOLVER, cuFFT ...
    | ERROR_?OUT_?OF_?MEMORY | ERROR_?MEMORY_?ALLOCATION
    | can(['’]t|not)[ ]allocate[ ]memory        # DefaultCPUAllocator's and the kernel's
    | DefaultCPUAllocator:[ ]not[ ]enough[ ]memory
    | \bbad_alloc\b""",
    re.IGNORECASE | re.VERBOSE,
)
_ASSERT = re.compile(r"device-side assert|ErrorAssert\b", re.IGNORECASE)
# Refused calls: the device and the process's hold on it are as good as before.
_REFUSED = re.compile(
    r"""_STATUS_(NOT_SUPPORTED|BAD_PARAM|INVALID_VALUE|ARCH_MISMATCH)
    | (CUDA|HIP)[ ]error:[ ](invalid[ ](configuration[ ])?argument|too[ ]many[ ]resources[ ]requested
        |operation[ ](not[ ]permitted[ ]when|failed[ ]due[ ]to[ ]a[ ]previous[ ]error|would[ ]make).*captur)""",
    re.IGNORECASE | re.VERBOSE,
)
_DEVICE_KINDS = {"AcceleratorError"}
# What torch, Lightning and the system raise; a KeyError that quotes such words is something else.
_RAISED = _DEVICE_KINDS | {
    "RuntimeError", "AssertionError", "OSError", "MisconfigurationException", "SystemError", "DistBackendError"
}  # fmt: skip
_DEVICE = re.compile(
    r"""\b(CUDA|HIP)([ ]driver)?[ ](runtime[ ])?error\b | \bCUDA[ ](driver[ ]initialization|unknown[ ]error)
    | \bcuda(GetDeviceCount|Error[A-Z]\w+) | \bCUDA_ERROR_[A-Z]
    | \b(CUDNN|CUBLAS|CUSPARSE|CUSOLVER|HIPBLAS|MIOPEN)_?STATUS_ | \bCUFFT_[A-Z] | \b(cuDNN|cuFFT|MIOpen)[ ]error\b
    | \bNCCL[ ](error|communicator) | \bWatchdog[ ]caught[ ]collective
    | \bnccl(Unhandled|System|Internal|Remote)\w*Error
    | \bNo[ ](CUDA|HIP)[ ]GPUs[ ]are[ ]available | \bFound[ ]no[ ]NVIDIA[ ]driver
    | \bNVIDIA[ ]driver[ ]on[ ]your[ ]system
    | \bnot[ ]compiled[ ]with[ ](CUDA|ROCm) | \btorch\.cuda\.is_available\(\)[ ]is[ ]False
    | \bCUDA-capable[ ]device | \buncorrectable[ ](ECC|NVLink)[ ]error | \billegal[ ]memory[ ]access
    | \bunspecified[ ]launch[ ](failure|timeout) | \bNVML_SUCCESS[ ]==
    | \bInvalid[ ]device[ ](id|argument) | \binvalid[ ]device[ ]ordinal
    | \bCUDAAccelerator\b.*\bcan[ ]not[ ]run | \brequested[ ]gpu:""",
    re.IGNORECASE | re.VERBOSE,
)


def fault_of(error: BaseException) -> Fault:
    """Whose fault an error is; what it was raised from, or while handling, counts too."""
    found = {_own_fault(each) for each in _chain(error)}
    worst = (Fault.ASSERT, Fault.START, Fault.DEVICE, Fault.MEMORY)
    return next((fault for fault in worst if fault in found), Fault.STAGE)


def fault_in_words(kinds: set[str], message: str) -> Fault:
    """The same by the names of the exception's classes and by its message."""
    if kinds & _MEMORY_KINDS or (kinds & _RAISED and _MEMORY.search(message)):
        return Fault.MEMORY
    if not kinds & _RAISED:
        return Fault.STAGE
    if _ASSERT.search(message):
        return Fault.ASSERT
    if _REFUSED.search(message):
        return Fault.STAGE
    return Fault.DEVICE if kinds & _DEVICE_KINDS or _DEVICE.search(message) else Fault.STAGE


def _own_fault(error: BaseException) -> Fault:
    known = getattr(error, "fault", None)  # judged where it was raised, in another process
    kinds = {c.__name__ for c in type(error).__mro__}
    return known if isinstance(known, Fault) else fault_in_words(kinds, message_of(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
