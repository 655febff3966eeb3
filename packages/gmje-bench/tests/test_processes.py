"""What several processes run on, and launches that cannot work."""

from types import SimpleNamespace

import pytest
import torch

from gmje_bench.errors import OptionError
from gmje_bench.processes import check_devices, check_world, needs_cpu_backend


@pytest.fixture
def launched(monkeypatch):
    """A launch of so many processes on a machine with so many GPUs."""

    def launch(processes: int, gpus: int, device: str | None = None) -> None:
        for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE"):
            monkeypatch.setenv(name, str(processes))
        monkeypatch.delenv("ACCELERATE_USE_CPU", raising=False)
        found = torch.device(device) if device else None
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: found)

    return launch


@pytest.mark.parametrize(
    ("processes", "device", "cpu"),
    [(1, None, False), (2, None, True), (2, "mps", True), (1, "mps", False), (2, "cuda", False)],
)
def test_several_processes_without_devices_of_their_own_run_on_cpus(launched, processes, device, cpu):
    launched(processes, 0, device)
    assert needs_cpu_backend() == cpu


@pytest.mark.parametrize(("processes", "gpus"), [(1, 1), (2, 2), (2, 0), (1, 8)])
def test_each_process_has_a_gpu_or_none_has(launched, processes, gpus):
    launched(processes, gpus)
    check_devices()


def test_more_processes_than_gpus_are_refused_with_what_works(launched, monkeypatch):
    launched(2, 1)
    with pytest.raises(OptionError, match="launch 1, or set CUDA_VISIBLE_DEVICES= to run them on CPUs"):
        check_devices()
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    check_devices()


def test_processes_that_do_not_find_each_other_are_refused(launched):
    launched(2, 0)
    with pytest.raises(OptionError, match="2 processes were launched, but Accelerate found 1"):
        check_world(SimpleNamespace(num_processes=1), None)
    check_world(SimpleNamespace(num_processes=2), 2)
