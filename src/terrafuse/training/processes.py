"""Processes of one run: how they meet, and how all end with one message when one of them does.

The first process keeps a small store (`torch.distributed.TCPStore`, or that of torchrun). Every
process sends a pulse to it and looks at those of others: a process that is killed, or whose machine
is lost, is noticed even where the others wait for it inside a collective operation. A process that
fails leaves its message in the store; the first process tells it, and all end.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, NoReturn

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.plugins.precision.fsdp import FSDPPrecision
from lightning.pytorch.strategies import DDPStrategy, FSDPStrategy
from lightning.pytorch.strategies.launchers import subprocess_script
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # exported all the same
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.fsdp import FullyShardedDataParallel

from terrafuse import errors
from terrafuse.errors import ConfigError, TerrafuseError, TrainingError

#: Within so long all processes must have come, counted from the first one.
JOIN_SECONDS = 40.0
#: Those that this process has started itself are waited for as long as they live.
_CHILDREN_SECONDS = 600.0
_PULSE_SECONDS = 1.0
#: Without a pulse for so long, a process counts as lost.
LOST_SECONDS = 30.0
#: How long a process may take to leave a collective operation after another has ended.
_GRACE_SECONDS = 10.0
_ANSWER_SECONDS = 15.0
_REACH_SECONDS = 5.0
#: Of collective operations: the first process validates and writes while others wait.
_GROUP_TIMEOUT = timedelta(minutes=60)
_MISTAKE = 2


@dataclass(frozen=True)
class Place:
    """Where a process stands among those of a run.

    Args:
        rank: From 0.
        address: Name or number of the machine of the first process.
        has_store: Whether the launcher keeps the store (torchrun).
        is_child: Whether the first process of this machine has started this one.
    """

    rank: int
    processes: int
    address: str
    port: int
    has_store: bool = False
    is_child: bool = False

    @property
    def is_server(self) -> bool:
        """Whether this process keeps the store."""
        return self.rank == 0 and not self.has_store

    @property
    def told(self) -> str:
        """The address in a message."""
        return f"MASTER_ADDR is '{self.address}' and MASTER_PORT {self.port}"


class Contact:
    """A process's contact with the others, from their meeting to the end.

    Args:
        store: Shared by all processes.
        children: Processes that this one has started, from rank 1 on.
    """

    def __init__(
        self, place: Place, store: Any, children: Sequence[subprocess.Popen[bytes]] = ()
    ) -> None:
        self.place, self.children = place, children
        self._store = store
        self._verdict: TerrafuseError | None = None
        self._known = threading.Event()
        self._over = threading.Event()
        self._beats: dict[int, tuple[int, float]] = {}
        self._thread = threading.Thread(target=self._watch, name="contact", daemon=True)

    def start(self) -> None:
        """Begin to send pulses and to look at those of others."""
        self._store = self._store.clone()  # a connection of its own: the main thread may block
        self._thread.start()

    def close(self) -> None:
        """Part without an error; the first process waits for the others."""
        self._over.set()
        self._thread.join(_GRACE_SECONDS)
        with contextlib.suppress(RuntimeError):
            self._store.set(f"end/{self.place.rank}", "")
            if self.place.rank == 0:
                self._wait(lambda: self._store.check([f"end/{r}" for r in self._others]))

    def leave(self, stop: BaseException) -> None:
        """Part because this process is stopped; the others end without a word."""
        self._over.set()
        self._publish(stop)

    def settle(self, error: Exception) -> NoReturn:
        """Part because of an error: it is told once, by the first process if that lives.

        Raises:
            SystemExit: Another process tells it.
            Exception: `error`, or what ended another process before.
        """
        if _is_of_others(error):
            self._known.wait(LOST_SECONDS + _GRACE_SECONDS)
        if self._verdict is None:
            self._publish(error)
        self._leave(self._verdict or error, error)

    def _leave(self, verdict: Exception, cause: Exception | None = None) -> NoReturn:
        self._over.set()
        with contextlib.suppress(RuntimeError):
            self._store.set(f"knows/{self.place.rank}", "")
        if not self._tells(verdict):
            raise SystemExit(_MISTAKE)
        if isinstance(verdict, TerrafuseError):
            verdict.is_told_by_all = True
        self._wait_until_known(verdict)
        self._end_children()
        if verdict is cause:
            raise verdict
        raise verdict from cause

    def _wait_until_known(self, verdict: Exception) -> None:
        """Keep the store until the others have seen why it goes."""
        lost = verdict.ranks if isinstance(verdict, _LostError) else {}
        if self.place.rank == 0:
            keys = [f"knows/{rank}" for rank in self._others if rank not in lost]
            with contextlib.suppress(RuntimeError):
                self._wait(lambda: not keys or self._store.check(keys), _GRACE_SECONDS / 2)

    @property
    def _others(self) -> list[int]:
        """Ranks to look at: the first process looks at all, and all at the first."""
        return list(range(1, self.place.processes)) if self.place.rank == 0 else [0]

    def _tells(self, verdict: Exception) -> bool:
        if isinstance(verdict, _ToldError):
            return False
        if self.place.rank == 0 or not isinstance(verdict, TerrafuseError):
            return True
        if isinstance(verdict, _LostError) and 0 in verdict.ranks:
            # The next one, and one per machine.
            return self.place.rank == 1 or os.environ.get("LOCAL_RANK") == "0"
        answered = partial(self._has, "told")
        with contextlib.suppress(RuntimeError):
            return not self._wait(answered)
        return self.place.rank == 1

    def _publish(self, error: BaseException) -> None:
        content = {"rank": self.place.rank, "kind": type(error).__name__, "text": str(error)}
        with contextlib.suppress(RuntimeError):
            self._store.compare_set("failure", "", json.dumps(content))
            if self.place.rank == 0:
                self._store.set("told", "")

    def _wait(self, is_done: Callable[[], bool], seconds: float = _ANSWER_SECONDS) -> bool:
        until = time.monotonic() + seconds
        while not is_done():
            if time.monotonic() > until:
                return False
            time.sleep(0.1)
        return True

    def _has(self, key: str) -> bool:
        return bool(self._store.check([key]))

    def _watch(self) -> None:
        while not self._over.wait(_PULSE_SECONDS):
            try:
                found = self._look()
            except RuntimeError:  # the store has gone with the process that kept it
                found = _LostError({0: ""}, self.place.processes)
            if found is not None and not self._over.is_set():
                self._verdict = found
                self._known.set()
                with contextlib.suppress(RuntimeError):
                    self._store.set(f"knows/{self.place.rank}", "")
                self._insist(found)
                return

    def _look(self) -> TerrafuseError | None:
        self._store.add(f"pulse/{self.place.rank}", 1)
        if self._has("failure"):
            content = json.loads(self._store.get("failure"))
            if self.place.rank == 0:
                self._store.set("told", "")
            if content["rank"] != self.place.rank:
                return _failure_of(content, self.place.processes)
        now, lost = time.monotonic(), {}
        for rank in self._others:
            beat = self._store.add(f"pulse/{rank}", 0)
            if self._beats.get(rank, (-1, 0.0))[0] != beat:
                self._beats[rank] = beat, now
            ended = self._end_of(rank)
            is_silent = now - self._beats[rank][1] > LOST_SECONDS
            if (ended or is_silent) and not self._has(f"end/{rank}"):
                lost[rank] = ended
        # A child that has failed in order has left its message before it ended.
        return _LostError(lost, self.place.processes) if lost and not self._has("failure") else None

    def _end_of(self, rank: int) -> str:
        if rank > len(self.children) or self.place.rank != 0:
            return ""  # of another machine
        code = self.children[rank - 1].poll()
        if code is None:
            return ""
        return f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"

    def _insist(self, verdict: TerrafuseError) -> None:
        """End this process where its main thread does not come back from waiting for others."""
        if self._over.wait(_GRACE_SECONDS):
            return
        if self._tells(verdict):
            with contextlib.suppress(OSError, ValueError):
                print(f"error: {verdict}", file=sys.stderr, flush=True)
        self._end_children(0)
        os._exit(_MISTAKE)

    def _end_children(self, seconds: float = _GRACE_SECONDS) -> None:
        until = time.monotonic() + seconds
        for child in self.children:
            try:
                child.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.kill()


class _LostError(TrainingError):
    """Processes have ended without a word.

    Args:
        ranks: Lost ranks → how they ended, where that is known.
        processes: Number of processes of the run.
    """

    def __init__(self, ranks: dict[int, str], processes: int) -> None:
        self.ranks = ranks
        names = ", ".join(f"{rank} {end}".strip() for rank, end in ranks.items())
        super().__init__(
            f"the run has lost {len(ranks)} of its {processes} processes (rank {names}), and the "
            "others have ended. Continue with --resume; if it happens again, look at the memory of "
            "that machine and at the messages of its system"
        )


class _ToldError(TrainingError):
    """Another process tells what ended the run: a fault of ours, with its traceback."""


def _is_of_others(error: Exception) -> bool:
    """Tell whether an error only says that another process has left a collective operation."""
    if isinstance(error, TerrafuseError) or not isinstance(error, RuntimeError):
        return False
    text = str(error)
    return isinstance(error, dist.DistError) or "gloo" in text or "onnection" in text


def _failure_of(content: dict[str, Any], processes: int) -> TerrafuseError:
    """The error of another process, as this one tells it."""
    kind = getattr(errors, content["kind"], None)
    if kind is None:
        return _ToldError(content["text"])
    text = f"{content['text']} (in process {content['rank']} of 0 to {processes - 1})"
    try:
        error: TerrafuseError = kind(text)
    except TypeError:  # it takes more than a message
        error = TrainingError(text)
    return error


class _Current:
    """Store and contact of this process; there is one process group per process."""

    store: Any = None
    contact: Contact | None = None
    meetings = 0


@contextmanager
def told_once() -> Iterator[None]:
    """Let one process tell what ends all of them, and part in order otherwise.

    Raises:
        SystemExit: Another process tells it.
    """
    try:
        yield
    except Exception as error:
        contact, _Current.contact = _Current.contact, None
        if contact is None:
            raise
        contact.settle(error)
    except BaseException as stop:  # a signal, which each process tells that it has reached
        contact, _Current.contact = _Current.contact, None
        if contact is not None:
            contact.leave(stop)
        raise
    else:
        part()


def part() -> None:
    """Part from the other processes, which have done their work too."""
    contact, _Current.contact = _Current.contact, None
    if contact is not None:
        contact.close()


def meet(
    place: Place,
    device: torch.device,
    backend: str,
    children: Sequence[subprocess.Popen[bytes]] = (),
) -> None:
    """Connect the processes of a run, once; every one must call it.

    Args:
        device: Of this process.
        backend: "gloo" or "nccl".
        children: Processes that this one has started, from rank 1 on.

    Raises:
        ConfigError: They cannot reach each other, some do not come, or the backend does not work.
    """
    if _Current.contact is not None:
        return
    until = time.monotonic() + JOIN_SECONDS
    os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = place.address, str(place.port)
    if not dist.is_initialized():
        _check_address(place, until)
        _Current.store = _open_store(place)
    _Current.meetings += 1
    store = PrefixStore(f"terrafuse/{_Current.meetings}", _Current.store)
    _wait_for_all(place, store, until, children)
    if not dist.is_initialized():
        _connect(place, store, device, backend)
    _Current.contact = Contact(place, store, children)
    _Current.contact.start()


def _check_address(place: Place, until: float) -> None:
    """Refuse an address that cannot be reached, before torch waits for it.

    Raises:
        ConfigError: It is unknown, of another machine, or in use.
    """
    told = place.told
    try:
        socket.getaddrinfo(place.address, place.port)
    except OSError as error:
        raise ConfigError(
            f"{told}: no machine of this name is known here ({error.strerror or error}). Set "
            "MASTER_ADDR to the name or number of the machine of the first process"
        ) from None
    if not place.is_server:
        _wait_for_server(place, until)
        return
    with _listen() as server:
        try:
            socket.create_connection(
                (place.address, server.getsockname()[1]), timeout=_REACH_SECONDS
            ).close()
        except OSError as error:
            raise ConfigError(
                f"{told}: that is not the machine of the first process, '{socket.gethostname()}' "
                f"({error.strerror or error}). Set MASTER_ADDR to the name or number by which the "
                "other machines reach it"
            ) from None
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            server.bind(("", place.port))
        except OSError as error:
            raise ConfigError(
                f"{told}: the port cannot be used ({error.strerror or error}). Set MASTER_PORT to "
                "a free one, the same for all processes"
            ) from None


def _listen() -> socket.socket:
    """Listen at any port, by all ways in which this machine can be reached."""
    if socket.has_dualstack_ipv6():
        with contextlib.suppress(OSError):  # IPv6 is there, but off
            return socket.create_server(("", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", 0))


def _wait_for_server(place: Place, until: float) -> None:
    while True:
        try:
            socket.create_connection((place.address, place.port), timeout=_REACH_SECONDS).close()
            return
        except OSError as error:
            reason = error.strerror or str(error)
        if time.monotonic() > until:
            raise ConfigError(
                f"{place.told}: nobody answers there ({reason}), and process {place.rank} has "
                f"waited for {JOIN_SECONDS:.0f} s. Set MASTER_ADDR and MASTER_PORT as in the first "
                "process, start all processes at the same time, and let the port through"
            )
        time.sleep(0.2)


def _open_store(place: Place) -> Any:
    try:
        store = TCPStore(
            place.address,
            place.port,
            place.processes,
            is_master=place.is_server,
            timeout=timedelta(seconds=JOIN_SECONDS),
            wait_for_workers=False,  # `_wait_for_all` says who has not come
            multi_tenant=True,
        )
    except (RuntimeError, ValueError, OSError) as error:
        reason = str(error).splitlines()[0].rstrip(".")
        raise ConfigError(
            f"{place.told}: the processes cannot meet there: {reason}. Set both to a machine and a "
            "free port that all of them reach"
        ) from None
    # torchrun keeps its store when it starts processes again.
    return PrefixStore(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"), store)


def _wait_for_all(
    place: Place, store: Any, until: float, children: Sequence[subprocess.Popen[bytes]]
) -> None:
    """Wait until all processes have come.

    Raises:
        ConfigError: Some have not, or have ended before.
    """
    patience = _CHILDREN_SECONDS - JOIN_SECONDS
    own = range(place.rank + 1, place.rank + 1 + len(children))
    missing = list(range(place.processes))
    try:
        store.set(f"here/{place.rank}", "")
        while missing := [rank for rank in missing if not store.check([f"here/{rank}"])]:
            ended = [r for r, c in zip(own, children, strict=True) if c.poll() is not None]
            # Those that live import what they need, however long that takes.
            waits = place.is_child or dist.is_initialized() or all(r in own for r in missing)
            if ended or time.monotonic() > until + patience * waits:
                _refuse(place, store, ended or missing, has_ended=bool(ended))
            if store.check(["refused"]):
                raise SystemExit(_MISTAKE)  # the first process tells it
            time.sleep(0.1)
    except RuntimeError as error:
        raise TrainingError(
            "the first process of the run has ended before all had come "
            f"({str(error).splitlines()[0]}). Start all again"
        ) from None


def _refuse(place: Place, store: Any, missing: Sequence[int], *, has_ended: bool) -> NoReturn:
    ranks = ", ".join(map(str, missing))
    if place.rank and store.check(["here/0"]):
        raise SystemExit(_MISTAKE)  # the first process tells it
    store.set("refused", "")
    time.sleep(2 * _PULSE_SECONDS)  # until the others have seen it
    what = "have ended before they came" if has_ended else f"have not come in {JOIN_SECONDS:.0f} s"
    raise ConfigError(
        f"the run needs {place.processes} processes, of which rank {ranks} {what}. Start all at "
        "the same time with the same command; training.devices is the number for each machine, "
        "training.nodes that of machines"
    )


def _connect(place: Place, store: Any, device: torch.device, backend: str) -> None:
    """Create the process group, and try it.

    Raises:
        ConfigError: It does not work.
    """
    is_cuda = device.type == "cuda"
    try:
        dist.init_process_group(
            backend,
            store=PrefixStore("group", store),
            rank=place.rank,
            world_size=place.processes,
            timeout=_GROUP_TIMEOUT,
            device_id=device if is_cuda else None,
        )
        one = torch.ones(1, device=device if is_cuda else "cpu")
        work = dist.all_reduce(one, async_op=True)
        assert work is not None
        work.wait(timedelta(seconds=JOIN_SECONDS))
        is_right = one.item() == place.processes
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        is_right = False
    else:
        reason = "a sum over them is wrong"
    if is_right:
        return
    if dist.is_initialized():
        with contextlib.suppress(Exception):
            dist.destroy_process_group()
    if place.rank and store.check(["here/0"]):
        raise SystemExit(_MISTAKE)
    raise ConfigError(
        f"the {place.processes} processes cannot exchange tensors by {backend}: {reason}. "
        + (
            "NCCL needs a CUDA device for each process and a network between them "
            "(NCCL_SOCKET_IFNAME, NCCL_DEBUG=INFO says more); with training.backend gloo the "
            "processors' network is used"
            if backend == "nccl"
            else "Name the network to use in GLOO_SOCKET_IFNAME"
        )
    )


class _Launcher(subprocess_script._SubprocessScriptLauncher):  # type: ignore[misc]
    """Lightning's launcher, whose observer kills all processes without a word."""

    def launch(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Start the other processes of this machine, unless the launcher has; call `function`."""
        kwargs.pop("trainer", None)
        if not self.cluster_environment.creates_processes_externally:
            self._call_children_scripts()
        subprocess_script._set_num_threads_if_needed(num_processes=self.num_processes)
        return function(*args, **kwargs)


class _Meeting:
    """What both strategies share: processes meet by `meet`.

    Args:
        backend: "gloo", "nccl", or "auto" for that of the device.
        **options: Of Lightning's strategy.
    """

    def __init__(self, backend: str = "auto", **options: Any) -> None:
        wanted = {"process_group_backend": None if backend == "auto" else backend}
        super().__init__(**wanted, **options)

    def _configure_launcher(self: Any) -> None:
        self._launcher = _Launcher(self.cluster_environment, self.num_processes, self.num_nodes)

    def setup_environment(self: Any) -> None:
        """Meet the other processes."""
        meet_by(self)
        super().setup_environment()  # type: ignore[misc]  # of Lightning's strategy


class MeetingDDP(_Meeting, DDPStrategy):  # type: ignore[misc]  # Lightning is not typed for us
    """Lightning's DDP."""


class _ShardPrecision(FSDPPrecision):  # type: ignore[misc]
    """Mixed precision of shards by autocast alone, as without shards.

    Lightning's would round what comes in, and the statistics that normalise it, to half precision:
    a height of 4001 m would be one of 4000 m.
    """

    mixed_precision_config = None

    def convert_input(self, data: Any) -> Any:
        """Leave a batch as it is."""
        return data

    def convert_output(self, data: Any) -> Any:
        """Leave losses as they are."""
        return data


class MeetingFSDP(_Meeting, FSDPStrategy):  # type: ignore[misc]
    """Lightning's FSDP, also between processors."""

    @property
    def precision_plugin(self) -> Any:
        """Precision of forward passes."""
        return FSDPStrategy.precision_plugin.fget(self)

    @precision_plugin.setter
    def precision_plugin(self, plugin: Any) -> None:
        own = None if plugin is None else _ShardPrecision(plugin.precision)
        FSDPStrategy.precision_plugin.fset(self, own)

    def _setup_model(self, model: torch.nn.Module) -> torch.nn.Module:
        if self.root_device.type != "cpu":
            wrapped: torch.nn.Module = super()._setup_model(model)
            return wrapped
        # Lightning passes the device's number, and a processor has none.
        return FullyShardedDataParallel(
            model,
            cpu_offload=self.cpu_offload,
            mixed_precision=self.mixed_precision_config,
            sharding_strategy=self.sharding_strategy,
            device_id=self.root_device,
            **self.kwargs,
        )


def meet_by(strategy: Any) -> None:
    """Meet the other processes of a Lightning strategy.

    Raises:
        ConfigError: See `meet`.
    """
    strategy.accelerator.setup_device(strategy.root_device)
    strategy.set_world_ranks()
    environment = strategy.cluster_environment
    place = Place(
        environment.global_rank(),
        environment.world_size(),
        environment.main_address,
        environment.main_port,
        has_store=os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
        is_child=isinstance(environment, LightningEnvironment) and strategy.local_rank > 0,
    )
    launcher = strategy.launcher
    children = launcher.procs if isinstance(launcher, _Launcher) else ()
    meet(place, strategy.root_device, strategy._get_process_group_backend(), children)
