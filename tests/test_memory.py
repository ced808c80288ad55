"""Free memory is the least of what system and limits leave; its end is one message."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from terrafuse.errors import NotEnoughMemoryError, TerrafuseError
from terrafuse.memory import (
    explaining_memory,
    free_memory,
    in_words,
    is_out_of_memory,
    keeping_freed_memory,
)

GB = 10**9


def put(root: Path, path: str, text: object) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_text(f"{text}\n")


@pytest.fixture
def system(tmp_path: Path) -> Path:
    """A machine with 22 GB available, of 64."""
    put(
        tmp_path,
        "proc/meminfo",
        "MemTotal: 64000000 kB\nMemAvailable:   22000000 kB\nSwapFree: 9 kB",
    )
    return tmp_path


def test_without_limits_it_is_what_is_available(system: Path) -> None:
    assert free_memory(system) == 22_000_000 * 1024


def test_a_group_of_version_2_limits(system: Path) -> None:
    put(system, "proc/self/cgroup", "0::/jobs/7")
    group = "sys/fs/cgroup/jobs/7"
    put(system, f"{group}/memory.max", 10 * GB)
    put(system, f"{group}/memory.current", 7 * GB)
    put(system, f"{group}/memory.stat", f"anon 5\ninactive_file {2 * GB}\nactive_file 3")
    assert free_memory(system) == 5 * GB
    put(system, "sys/fs/cgroup/jobs/memory.max", 30 * GB)  # of the group above it
    put(system, "sys/fs/cgroup/jobs/memory.current", 29 * GB)
    assert free_memory(system) == 1 * GB
    put(system, "sys/fs/cgroup/jobs/memory.max", "max")
    assert free_memory(system) == 5 * GB


def test_a_group_of_version_1_limits(system: Path) -> None:
    put(system, "proc/self/cgroup", "9:cpu,memory:/box\n8:pids:/box\n0::/")
    mount = "sys/fs/cgroup/memory"
    put(system, f"{mount}/box/memory.limit_in_bytes", 8 * GB)
    put(system, f"{mount}/box/memory.usage_in_bytes", 6 * GB)
    put(system, f"{mount}/memory.limit_in_bytes", 2**63 - 4096)  # none
    put(system, f"{mount}/memory.usage_in_bytes", 40 * GB)
    assert free_memory(system) == 2 * GB
    put(system, f"{mount}/box/memory.stat", f"inactive_file 1\ntotal_inactive_file {GB}")
    assert free_memory(system) == 3 * GB


def test_a_container_sees_its_group_as_the_topmost(system: Path) -> None:
    put(system, "proc/self/cgroup", "0::/docker/abc")
    put(system, "sys/fs/cgroup/memory.max", 4 * GB)
    put(system, "sys/fs/cgroup/memory.current", 1 * GB)
    assert free_memory(system) == 3 * GB


def test_a_limit_of_the_process(system: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    resource = pytest.importorskip("resource")
    put(system, "proc/self/status", "Name: x\nVmSize:\t 3000000 kB")
    monkeypatch.setattr(resource, "getrlimit", lambda _: (5_000_000 * 1024, 9 * GB))
    assert free_memory(system) == 2_000_000 * 1024


def test_what_is_overdrawn_is_nothing(system: Path) -> None:
    put(system, "proc/self/cgroup", "0::/")
    put(system, "sys/fs/cgroup/memory.max", GB)
    put(system, "sys/fs/cgroup/memory.current", 2 * GB)
    assert free_memory(system) == 0


def test_where_nothing_is_known(tmp_path: Path) -> None:
    assert free_memory(tmp_path) is None


@pytest.mark.parametrize(
    ("size", "words"),
    [(200, "1 MB"), (820e6, "820 MB"), (1e9, "1.0 GB"), (9.94e9, "9.9 GB"), (41.4e9, "41 GB")],
)
def test_sizes_in_words(size: float, words: str) -> None:
    assert in_words(size) == words


class CPLE_OutOfMemoryError(Exception):  # noqa: N801
    """As GDAL's is called."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 41.00 GiB. GPU 0 has a …"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate"),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
        RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        OSError(12, "Cannot allocate memory"),
        CPLE_OutOfMemoryError("block cache"),
    ],
    ids=lambda error: type(error).__name__ + str(error)[:20],
)
def test_every_end_of_memory_is_one_message(error: Exception) -> None:
    with (
        pytest.raises(NotEnoughMemoryError, match=r"^mapping needs more .*\. Take less$") as caught,
        explaining_memory("mapping", "Take less"),
    ):
        raise error
    assert isinstance(caught.value, TerrafuseError)
    assert isinstance(caught.value, MemoryError)
    assert len(str(caught.value)) < 300


def test_real_ones_are_known() -> None:
    size = 2**58
    for allocate in (lambda: np.empty(size, np.uint8), lambda: torch.empty(size, dtype=torch.int8)):
        with pytest.raises((MemoryError, RuntimeError)) as caught:
            allocate()
        assert is_out_of_memory(caught.value)


@pytest.mark.parametrize("error", [ValueError("memory"), RuntimeError("shapes"), OSError("x")])
def test_other_errors_pass(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, explaining_memory("mapping", "Take less"):
        raise error
    assert caught.value is error


def test_a_message_is_not_wrapped_twice() -> None:
    with (
        pytest.raises(NotEnoughMemoryError, match=r"^told$"),
        explaining_memory("outer", "…"),
        explaining_memory("inner", "…"),
    ):
        raise NotEnoughMemoryError("told")


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_freed_memory_is_not_asked_for_again_while_it_is_kept() -> None:
    import resource

    def faults() -> int:
        """Pages that the system clears for a tensor of 40 MB, after one that was freed."""
        torch.ones(10 << 20)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        torch.ones(10 << 20)
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    with keeping_freed_memory():
        kept = faults()
    assert kept < faults() // 2  # it is given back afterwards
