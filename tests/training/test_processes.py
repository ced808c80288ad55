"""Processes of a run: how they meet, and what they tell when one is lost, without starting any."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn

from terrafuse.config import TrainingConfig
from terrafuse.errors import ConfigError, DataError, LabelError, TrainingError
from terrafuse.locking import one_voice
from terrafuse.training import processes, run_state
from terrafuse.training.checkpoint import _check_finite
from terrafuse.training.fitting import to_fit
from terrafuse.training.processes import Contact, Place, meet, told_once
from terrafuse.training.run_state import Position
from terrafuse.training.task import LearningTask
from terrafuse.training.trainer import check_trainer

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Short patience, and no traces of a meeting."""
    for name, seconds in (("JOIN", 0.3), ("_PULSE", 0.02), ("LOST", 0.3), ("_GRACE", 5.0)):
        monkeypatch.setattr(processes, f"{name}_SECONDS", seconds)
    monkeypatch.setattr(processes, "_ANSWER_SECONDS", 1.0)
    monkeypatch.setattr(processes, "_REACH_SECONDS", 0.3)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")
    yield
    processes.part()
    processes._Current.store = None
    if dist.is_initialized():
        dist.destroy_process_group()


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("", 0))
        return int(server.getsockname()[1])


def refused(place: Place, backend: str = "gloo") -> str:
    with pytest.raises(ConfigError) as raised:
        meet(place, CPU, backend)
    return str(raised.value)


def test_a_name_that_nobody_knows() -> None:
    told = refused(Place(0, 2, "no-such-machine.invalid", 29500))
    assert told.startswith(
        "MASTER_ADDR is 'no-such-machine.invalid' and MASTER_PORT 29500: no mach"
    )
    assert "Set MASTER_ADDR to the name or number of the machine of the first process" in told


def test_an_address_of_another_machine() -> None:
    told = refused(Place(0, 2, "192.0.2.1", 29500))  # reserved for documentation
    assert f"that is not the machine of the first process, '{socket.gethostname()}'" in told


def test_a_port_that_others_use() -> None:
    with socket.socket() as server:
        server.bind(("", 0))
        server.listen()
        port = server.getsockname()[1]
        assert "the port cannot be used (Address already in use)" in refused(
            Place(0, 2, "127.0.0.1", port)
        )


def test_a_first_process_that_does_not_answer() -> None:
    told = refused(Place(1, 2, "127.0.0.1", free_port()))
    assert "nobody answers there (Connection refused), and process 1 has waited for 0 s" in told


def test_processes_that_do_not_come() -> None:
    told = refused(Place(0, 4, "127.0.0.1", free_port()))
    assert "the run needs 4 processes, of which rank 1, 2, 3 have not come in 0 s" in told


def test_a_process_that_ends_before_it_comes() -> None:
    child = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    child.wait()
    with pytest.raises(ConfigError, match="of which rank 1 have ended before they came"):
        meet(Place(0, 2, "127.0.0.1", free_port()), CPU, "gloo", [child])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one here")
def test_nccl_without_a_gpu() -> None:
    told = refused(Place(0, 1, "127.0.0.1", free_port()), "nccl")
    assert told.startswith("the 1 processes cannot exchange tensors by nccl: ")
    assert "with training.backend gloo the processors' network is used" in told
    meet(Place(0, 1, "127.0.0.1", free_port()), CPU, "gloo")


def test_a_group_that_works() -> None:
    with told_once():
        meet(Place(0, 1, "localhost", free_port()), CPU, "gloo")
        assert dist.get_world_size() == 1
        meet(Place(0, 1, "localhost", 1), CPU, "gloo")  # once is enough
    assert processes._Current.contact is None


def pair(first: dict[str, Any] | None = None) -> tuple[Contact, Contact]:
    """Contacts of two processes over a store in memory."""
    store = dist.HashStore()
    store.set_timeout(timedelta(seconds=5))
    places = [Place(rank, 2, "", 0) for rank in range(2)]
    return tuple(Contact(place, store, **(first or {})) for place in places)  # type: ignore[return-value]


def test_the_first_process_tells_the_error_of_another() -> None:
    first, second = pair()
    first.start()
    second.start()
    with pytest.raises(SystemExit):  # not told twice
        second.settle(LabelError("labels of 'x' are wrong"))
    with pytest.raises(LabelError, match=r"labels of 'x' are wrong \(in process 1 of 0 to 1\)"):
        first.settle(RuntimeError("[gloo] Connection closed by peer"))


def test_an_error_of_all_is_told_by_the_first() -> None:
    first, second = pair()
    second.start()
    with pytest.raises(DataError, match=r"^both$"):
        first.settle(DataError("both"))
    with pytest.raises(SystemExit):
        second.settle(DataError("both"))


def test_a_fault_of_ours_is_told_where_it_is() -> None:
    first, second = pair()
    first.start()
    second.start()
    with pytest.raises(KeyError):
        second.settle(KeyError("ours"))
    with pytest.raises(SystemExit):
        first.settle(RuntimeError("Connection reset by peer"))


def test_a_process_without_a_pulse_is_lost() -> None:
    first, _ = pair()
    first.start()
    told = (
        r"lost 1 of its 2 processes \(rank 1\), and the others have ended\. Continue with --resume"
    )
    with pytest.raises(TrainingError, match=told):
        first.settle(RuntimeError("[gloo] Connection closed by peer"))


def test_a_killed_child_is_named() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    child.kill()
    first = Contact(Place(0, 2, "", 0), dist.HashStore(), [child])
    first.start()
    with pytest.raises(TrainingError, match=r"\(rank 1 by SIGKILL\)"):
        first.settle(RuntimeError("Broken pipe in gloo"))


def test_one_that_waits_for_ever_is_ended(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Inside NCCL the main thread never learns that another process has gone."""
    monkeypatch.setattr(processes, "_GRACE_SECONDS", 0.05)
    codes: list[int] = []
    monkeypatch.setattr(processes.os, "_exit", codes.append)
    first, _ = pair()
    first.start()
    first._thread.join(10)
    assert codes == [2]
    assert capsys.readouterr().err.startswith("error: the run has lost 1 of its 2 processes")


def test_parting_in_order() -> None:
    first, second = pair()
    first.start()
    second.start()
    second.close()
    first.close()
    assert first._verdict is None
    assert second._verdict is None


def test_one_process_of_each_machine_speaks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(SystemExit), one_voice():
        raise ConfigError("of all")
    lost = TrainingError("the first one is lost")
    lost.is_told_by_all = True
    with pytest.raises(TrainingError), one_voice():
        raise lost
    monkeypatch.setenv("LOCAL_RANK", "0")
    with pytest.raises(ConfigError), one_voice():
        raise ConfigError("of all")


def test_tasks_that_do_not_fit_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun starts 2 processes, and the settings want 3."""
    for name, value in {
        "LOCAL_RANK": "0", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "1", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": "29500",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    config = TrainingConfig(accelerator="cpu", devices=3, strategy="ddp")
    with pytest.raises(ConfigError, match="devices, nodes and strategy do not suit this machine"):
        check_trainer(config)
    assert check_trainer(config.model_copy(update={"devices": 2})) == 2


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is one here")
@pytest.mark.parametrize("changes", [{"accelerator": "gpu"}, {"accelerator": "cuda", "devices": 2}])
def test_a_gpu_that_is_not_there(changes: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="do not suit this machine"):
        check_trainer(TrainingConfig(**changes))


def test_a_backend_without_processes() -> None:
    config = TrainingConfig(accelerator="cpu", devices=1, backend="gloo")
    with pytest.raises(ConfigError, match=r"training\.backend is gloo, and nothing is exchanged"):
        check_trainer(config)
    assert check_trainer(config.model_copy(update={"backend": "auto"})) == 1


def test_a_model_in_shards_is_a_copy_of_that_which_is_loaded_into() -> None:
    model = nn.Linear(2, 1)
    assert to_fit(model, TrainingConfig(strategy="ddp")) is model
    sharded = to_fit(model, TrainingConfig(strategy="fsdp"))
    sharded.weight.data.fill_(torch.nan)
    assert model.weight.isfinite().all()


def test_a_process_without_a_shard_finds_its_weights_finite() -> None:
    model: Any = nn.ParameterList([torch.empty(0)])
    _check_finite(model, 3)
    model.append(torch.tensor([1.0, torch.inf]))
    with pytest.raises(TrainingError, match="weights are not finite after step 3"):
        _check_finite(model, 3)


@pytest.mark.parametrize(
    ("processes", "changes", "wanted"),
    [
        (1, {"batch_size": 8}, None),
        (1, {"accumulate": 2}, None),
        (4, {"batch_size": 2}, None),
        (1, {"batch_size": 6}, "a step of the run in '.*' has 8 samples, and now would have 6"),
        (2, {"batch_size": 8}, "has other settings and cannot be resumed"),
        (1, {"batch_size": 8, "seed": 1}, "has other settings and cannot be resumed"),
    ],
)
def test_a_step_keeps_its_samples_on_other_processes(
    processes: int, changes: dict[str, int], wanted: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a run of batches of 4 in two processes."""

    def settings(batch_size: int = 4, **training: int) -> Any:
        values = {"data": {"batch_size": batch_size}, "training": {"accumulate": 1, **training}}
        return SimpleNamespace(model_dump=lambda mode: values)

    position = Position(step=5, world_size=2, step_samples=8)
    monkeypatch.setattr(run_state, "read_position", lambda _: position)
    with nullcontext() if wanted is None else pytest.raises(ConfigError, match=wanted):
        run_state._check_same_settings(settings(), settings(**changes), Path("out"), processes)


def test_batches_are_counted_as_of_todays_size() -> None:
    """Three steps were a batch each; of two batches, the fourth begins with the seventh."""
    counts = {"ready": 3, "started": 3, "processed": 3, "completed": 3}
    progress = {"total": dict(counts), "current": dict(counts), "is_last_batch": False}
    checkpoint: Any = {
        "terrafuse": {"step": 3}, "loops": {"fit_loop": {"epoch_loop.batch_progress": progress}},
    }  # fmt: skip
    task: Any = SimpleNamespace(config=TrainingConfig(accumulate=2))
    LearningTask.on_load_checkpoint(task, checkpoint)
    wanted = dict.fromkeys(counts, 6)
    assert progress == {"total": wanted, "current": wanted, "is_last_batch": False}


def test_fsdp_on_processors() -> None:
    config = TrainingConfig(accelerator="cpu", devices=2, strategy="fsdp")
    assert check_trainer(config) == 2
