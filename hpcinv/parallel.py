r"""The ranks of a running job, seen by everything else as one small object, `World`.

Three backends: `none` (one process), `mpi` (everything that assimilates, encodes or writes)
and `torch` (training; such a process never imports mpi4py.MPI, whose progress engine and
NCCL's do not like each other). This module is the only place that initialises either.
"""

from __future__ import annotations

__all__ = ["Launch", "World", "connect", "launched", "leave_mpi_alone"]

import atexit
import json
import os
import shutil
import socket
import sys
import time
import uuid
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

from .errors import BadInput
from .waiting import Watch, at


@dataclass(frozen=True)
class Launch:
    r"""How the launcher placed this process: its rank, the world's size, its rank in the node."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    by: str = "nobody"


def launched(environ: dict[str, str] | None = None) -> Launch:
    r"""Reads the launcher's variables without starting MPI or torch.distributed.

    A process is a rank only under `PMIX_RANK`, `OMPI_COMM_WORLD_RANK`, our own local launcher
    (`HPCINV_RANK`) or in a Slurm step of more than one task: an interactive shell inside an
    allocation also has `SLURM_PROCID`, and is not one.
    """
    env = os.environ if environ is None else environ
    if "HPCINV_RANK" in env:
        return Launch(
            int(env["HPCINV_RANK"]),
            int(env["HPCINV_SIZE"]),
            int(env.get("HPCINV_LOCAL_RANK", env["HPCINV_RANK"])),
            "hpcinv",
        )
    if "OMPI_COMM_WORLD_RANK" in env:
        return Launch(
            int(env["OMPI_COMM_WORLD_RANK"]),
            int(env["OMPI_COMM_WORLD_SIZE"]),
            int(env.get("OMPI_COMM_WORLD_LOCAL_RANK", 0)),
            "mpirun",
        )
    tasks = int(env.get("SLURM_STEP_NUM_TASKS", "1"))
    if "SLURM_PROCID" in env and (tasks > 1 or "PMIX_RANK" in env):
        return Launch(int(env["SLURM_PROCID"]), tasks, int(env.get("SLURM_LOCALID", 0)), "srun")
    return Launch()


def leave_mpi_alone() -> None:
    r"""Keeps `import mpi4py.MPI` from starting MPI, until `connect` does so on purpose.

    An h5py or netCDF4 with MPI imports mpi4py, which would start MPI in every process that reads
    a file: in training ranks, in the command itself, in a job of one rank.
    """
    import mpi4py

    mpi4py.rc.initialize = False


class World:
    r"""One process. Also the interface of the worlds of many ranks.

    Objects given to `broadcast`, `gather` and `all_gather` are small and JSON-like; arrays and
    tensors travel through `all_reduce` or, in the assimilation engine, through `comm` itself.
    """

    backend = "none"
    comm: Any = None

    def __init__(self, rank: int = 0, size: int = 1, local_rank: int = 0) -> None:
        self.rank, self.size, self.local_rank = rank, size, local_rank

    def __repr__(self) -> str:
        return f"World(rank {self.rank} of {self.size}, {self.backend})"

    @property
    def device(self):
        r"""The torch device of this rank: its GPU where there is one, else the CPU."""
        import torch

        if torch.cuda.is_available():
            return torch.device("cuda", self.local_rank % torch.cuda.device_count())
        return torch.device("cpu")

    def broadcast(self, obj: Any, root: int = 0) -> Any:
        return obj

    def gather(self, obj: Any, root: int = 0) -> list[Any] | None:
        return [obj]

    def all_gather(self, obj: Any) -> list[Any]:
        return [obj]

    def all_reduce(self, x: Any, op: str = "sum") -> Any:
        r"""Sum, max or min over ranks of a float, a numpy array or a tensor; same type back."""
        return x

    def barrier(self, what: str = "") -> None:
        pass

    def share(self, start: int, stop: int) -> tuple[int, int]:
        r"""This rank's contiguous share of the half-open range [start, stop)."""
        n = stop - start
        return start + n * self.rank // self.size, start + n * (self.rank + 1) // self.size

    def close(self) -> None:
        pass

    def finish(self, code: int) -> int:
        r"""Leaves the world at the end of a job whose work is saved; gives its exit code back."""
        self.close()
        if _unloads_badly():
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        return code


def _unloads_badly() -> bool:
    r"""Whether this process has read GRIB: ecCodes and an MPI build of netCDF4 both load libcurl's
    LDAP, and unloading them together ends in a segmentation fault."""
    return "gribapi" in sys.modules


class MPIWorld(World):
    r"""The ranks of an MPI communicator.

    Attributes:
        watch: What looks after collectives that wait too long.
    """

    watch: Watch | None = None

    backend = "mpi"

    def __init__(self, comm: Any = None, local_rank: int = 0) -> None:
        from mpi4py import MPI

        if not MPI.Is_initialized():
            MPI.Init_thread()
            atexit.register(MPI.Finalize)
        self.comm = MPI.COMM_WORLD if comm is None else comm
        self._ops = {"sum": MPI.SUM, "max": MPI.MAX, "min": MPI.MIN}
        super().__init__(self.comm.rank, self.comm.size, local_rank)

    def finish(self, code: int) -> int:
        if _unloads_badly():
            from mpi4py import MPI

            # No barrier before it, which ranks that have read none would not meet: they finalize
            # at their own exit, and this waits for that.
            MPI.Finalize()
        return super().finish(code)

    def broadcast(self, obj: Any, root: int = 0) -> Any:
        with at("a broadcast"):
            return self.comm.bcast(obj, root)

    def gather(self, obj: Any, root: int = 0) -> list[Any] | None:
        with at("a gathering"):
            return self.comm.gather(obj, root)

    def all_gather(self, obj: Any) -> list[Any]:
        with at("a gathering on all ranks"):
            return self.comm.allgather(obj)

    def all_reduce(self, x: Any, op: str = "sum") -> Any:
        with at(f"a {op} over all ranks"):
            if np.isscalar(x):
                return self.comm.allreduce(x, self._ops[op])
            tensor = hasattr(x, "detach")
            a = np.ascontiguousarray(x.detach().cpu().numpy() if tensor else x)
            out = np.empty_like(a)
            self.comm.Allreduce(a, out, self._ops[op])
        if not tensor:
            return out
        import torch

        return torch.from_numpy(out).to(x.device)

    def barrier(self, what: str = "") -> None:
        with at(f"the barrier '{what}'"):
            self.comm.Barrier()

    def close(self) -> None:
        if self.watch is not None and self.rank == 0:
            shutil.rmtree(self.watch.folder, ignore_errors=True)


class TorchWorld(World):
    r"""The ranks of torch.distributed: gloo on CPUs, NCCL on GPUs."""

    backend = "torch"

    def __init__(self, launch: Launch, rendezvous: Path | None, timeout: float) -> None:
        import torch
        import torch.distributed as dist

        super().__init__(launch.rank, launch.size, launch.local_rank)
        self._dist = dist
        gpu = torch.cuda.is_available()
        if gpu:
            torch.cuda.set_device(self.device)
        store = _meet(launch, rendezvous, timeout)
        # The CPU backend stays beside NCCL: small objects and barriers need no GPU memory.
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if gpu else "gloo",
            store=store,
            rank=launch.rank,
            world_size=launch.size,
            timeout=timedelta(seconds=timeout),
        )

    def broadcast(self, obj: Any, root: int = 0) -> Any:
        box = [obj]
        self._dist.broadcast_object_list(box, root)
        return box[0]

    def gather(self, obj: Any, root: int = 0) -> list[Any] | None:
        box = [None] * self.size if self.rank == root else None
        self._dist.gather_object(obj, box, root)
        return box

    def all_gather(self, obj: Any) -> list[Any]:
        box: list[Any] = [None] * self.size
        self._dist.all_gather_object(box, obj)
        return box

    def all_reduce(self, x: Any, op: str = "sum") -> Any:
        import torch

        ops = {k: getattr(self._dist.ReduceOp, k.upper()) for k in ("sum", "max", "min")}
        if torch.is_tensor(x):
            t = x.detach().clone()
            self._dist.all_reduce(t, ops[op])
            return t
        t = torch.as_tensor(x, dtype=torch.float64 if np.isscalar(x) else None).clone()
        self._dist.all_reduce(t, ops[op])
        return type(x)(t.item()) if np.isscalar(x) else t.numpy()

    def barrier(self, what: str = "") -> None:
        self.all_reduce(0.0)

    def close(self) -> None:
        if self._dist.is_initialized():
            self._dist.destroy_process_group()

    def finish(self, code: int) -> int:
        if self.size == 1:
            return super().finish(code)
        # Taking gloo's threads down beside DeepSpeed's own groups aborts now and then ("terminate
        # called without an active exception"): ranks whose work is saved leave together, at once.
        self.barrier("finish")
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _meet(launch: Launch, folder: Path | None, timeout: float):
    r"""A TCP store at an address that rank 0 publishes in the attempt's folder.

    The port comes from a socket that is already bound, so that nobody can take it between
    choosing and listening; on one node it listens on the loopback interface only.
    """
    from torch.distributed import TCPStore

    wait = timedelta(seconds=timeout)
    if launch.size == 1 or folder is None:
        if launch.size > 1:
            raise BadInput("ranks of a training job have no folder to meet in", "parallel.connect")
        from torch.distributed import HashStore

        return HashStore()
    path = Path(folder) / f"rendezvous-{os.environ.get('HPCINV_LAUNCH', _step())}.json"
    if launch.rank == 0:
        one_node = int(os.environ.get("SLURM_STEP_NUM_NODES", "1")) == 1
        host = "127.0.0.1" if one_node else socket.gethostbyname(socket.gethostname())
        listener = socket.create_server((host, 0))
        port = listener.getsockname()[1]
        store = TCPStore(
            host, port, launch.size, True, wait, False, master_listen_fd=listener.detach()
        )
        scratch = path.with_suffix(".tmp")
        scratch.write_text(json.dumps({"host": host, "port": port}))
        os.replace(scratch, path)
        return store
    until = time.monotonic() + timeout
    while not path.exists():
        if time.monotonic() > until:
            raise TimeoutError(f"rank 0 published no address in {path} within {timeout:.0f} s")
        time.sleep(0.05)
    where = json.loads(path.read_text())
    return TCPStore(where["host"], where["port"], launch.size, False, wait, False)


def _step() -> str:
    r"""A name for this start of the job's ranks, the same on all of them."""
    keys = ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_STEP_ID")
    return "-".join(os.environ.get(k, "0") for k in keys)


def connect(
    backend: str,
    rendezvous: Path | None = None,
    timeout: float = 600.0,
) -> World:
    r"""Joins the ranks the launcher started, or returns the world of one process.

    Arguments:
        backend: `mpi`, `torch` or `none`.
        rendezvous: A folder all ranks see, where those of a torch world find each other, and
            where those of an MPI world ask each other when a collective waits too long.
        timeout: Seconds after which a torch collective gives up on a missing rank.

    Raises:
        BadInput: If a job that runs in one process was started as several ranks.
    """
    launch = launched()
    if backend == "torch":
        return TorchWorld(launch, rendezvous, timeout)
    if launch.size == 1:
        return World()
    if backend == "none":
        raise BadInput(
            f"this job runs in one process but was started as {launch.size} ranks",
            instead="Start it with --ranks 1, or with nodes: 1 and tasks_per_node: 1.",
        )
    world = MPIWorld(local_rank=launch.local_rank)
    if rendezvous is not None and world.size > 1:
        # Of this start alone: tasks of an array, and an attempt after a kill, share the folder.
        start = world.broadcast(uuid.uuid4().hex[:8])
        world.watch = Watch(Path(rendezvous) / f"waiting-{start}", world.rank, world.size)
        world.watch.start()
    return world
