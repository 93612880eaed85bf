"""How ranks that a launcher started find each other."""

from __future__ import annotations

import datetime
import json
import logging
import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Final, NoReturn

from mtlpar.core.collective import collective
from mtlpar.core.system_errors import words_of
from mtlpar.core.wording import counted
from mtlpar.parallel.agree import AgreedError, EndedTogether
from mtlpar.parallel.device import local_device
from mtlpar.parallel.failures import FailureDetector, RankLostError
from mtlpar.parallel.launch import EXPECTED_WORLD_SIZE, ended_ranks
from mtlpar.parallel.watchdog import end_with_the_dead, ends_with_others, ends_within

if TYPE_CHECKING:
    import torch
    from mpi4py import MPI
    from torch._C._distributed_c10d import Store

logger = logging.getLogger(__name__)

_HOST_SUFFIX: Final = "MTLPAR_HOST_SUFFIX"
_LAUNCHED_BY: Final = ("PMI_RANK", "PMIX_RANK", "SLURM_PROCID", "PALS_RANKID")
_PROCESS_MANAGER: Final = ("PMI_RANK", "PMIX_RANK", "PALS_RANKID")
_NO_MPI: Final = (
    "error: MPI did not start within {:.0f} s: the ranks do not find each other. One of them may "
    "have died (see above); launcher and MPI library may not belong together (MTLPAR_SRUN_MPI); or "
    "shared memory that killed ranks left is in the way (/dev/shm/mpich_* on the job's nodes)."
)
_NO_STORE: Final = (
    "error: the ranks that torchrun started do not find each other within {:.0f} s. One of them "
    "may have died (see above)."
)
_NOTICES_TIMEOUT: Final = datetime.timedelta(seconds=5)
_ANY_TIME: Final = datetime.timedelta(days=365)
# Keys of torchrun's store.
_PLACE: Final = "mtlpar/place"
_FIRST: Final = "mtlpar/first"
_MET: Final = "mtlpar/met"
_TORCHRUN: Final = "TORCHELASTIC_RUN_ID"
_TORCHRUN_RANK: Final = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


@dataclass(frozen=True, slots=True)
class RankContext:
    """Who this process is.

    Attributes:
        rank: Number of this process.
        world_size: Number of processes.
        device: Where its model lives.
        failures: Detects ranks that are lost; there are none in a world of one.
    """

    rank: int
    world_size: int
    device: torch.device
    failures: FailureDetector = field(default_factory=FailureDetector)


@contextmanager
@collective
def distributed_context(
    *, timeout_s: float = 600.0, first: Callable[[int], None] | None = None
) -> Iterator[RankContext]:
    """Join the ranks of this run, or be the only one, for as long as the block lasts.

    Ranks meet through MPI; rank 0 opens the store that torch meets at. Under torchrun they meet
    through torch alone. A process that no launcher started is a world of one and needs no MPI.

    Args:
        timeout_s: How long a rank waits for another in a collective, and for MPI to start; if
            another one of this machine is known to have failed before, a second or two.
        first: What rank 0 does with the number of ranks before they begin, however long it takes:
            the others wait. A mistake of the user that it finds is raised on all.

    Raises:
        ValueError: If the launcher announced another number of ranks than there are: the usual
            sign of a launcher and an MPI library that do not belong together.
    """
    expected = _expected_world_size(os.environ)
    timeout = datetime.timedelta(seconds=timeout_s)
    if _TORCHRUN in os.environ:
        _check_world(int(os.environ["WORLD_SIZE"]), expected)
        with _torchrun_ranks(timeout, first) as context:
            yield context
        return
    if any(name in os.environ for name in _LAUNCHED_BY):
        # Before torch, which loads communication libraries that Cray's MPI has to precede.
        with _starting(timeout_s, _NO_MPI):
            from mpi4py import MPI

            places = MPI.COMM_WORLD.allgather(_this_process())
        library = MPI.Get_library_version().partition("\n")[0]
        _check_world(MPI.COMM_WORLD.size, expected, library)
        if MPI.COMM_WORLD.size > 1:
            with _mpi_ranks(places, timeout, first) as context:
                yield context
            return
    else:
        _check_world(1, expected)
    if first:
        first(1)
    yield RankContext(0, 1, local_device())


def _this_process() -> tuple[str, int]:
    return socket.gethostname(), os.getpid()


def _starting(timeout_s: float, advice: str) -> AbstractContextManager[None]:
    """Until all ranks know each other's processes, and can watch them."""
    return ends_within(
        timeout_s, advice.format(timeout_s), ended=ended_ranks(), when="before all ranks had met"
    )


@contextmanager
@collective
def _watched(failures: FailureDetector, barrier: Callable[[], object]) -> Iterator[None]:
    """Watch all ranks from here until the last one leaves in good order.

    Args:
        failures: All ranks.
        barrier: Returns when all ranks have called it.
    """
    # Whoever watches would think that those who have left had died: nobody leaves before the last
    # one has stopped watching. And for the one that comes last the others wait under watch.
    with _ended_together(partial(_leave, barrier)), ends_with_others(failures):  # noqa: SIM117
        with _ended_together(barrier):
            yield


@collective
def _leave(barrier: Callable[[], object]) -> None:
    if ended := ended_ranks():
        end_with_the_dead(ended)
    barrier()


@contextmanager
@collective
def _mpi_ranks(
    places: Sequence[tuple[str, int]],
    timeout: datetime.timedelta,
    first: Callable[[int], None] | None,
) -> Iterator[RankContext]:
    from mpi4py import MPI

    _keep_ase_apart()
    world = MPI.COMM_WORLD
    failures = FailureDetector(places, rank=world.rank)
    try:
        with _watched(failures, world.Barrier):
            node = world.Split_type(MPI.COMM_TYPE_SHARED)
            single_host, local_rank = node.size == world.size, node.rank
            node.Free()
            from torch._C._distributed_c10d import TCPStore

            host = socket.gethostname() + os.environ.get(_HOST_SUFFIX, "")
            host = world.bcast("127.0.0.1" if single_host else host)
            store = None
            if world.rank == 0:
                store = TCPStore(host, 0, None, True, timeout=timeout, wait_for_workers=False)
            port = world.bcast(store.port if store else None)
            store = store or TCPStore(host, port, None, False, timeout=timeout)
            failures.connect(_open_notices(host, port, timeout))
            problem = world.bcast(_problem(first, world.size) if world.rank == 0 else None)
            context = RankContext(world.rank, world.size, local_device(local_rank), failures)
            with _process_group(context, store, timeout, world.Barrier):
                if problem:
                    raise AgreedError(problem)
                yield context
    except EndedTogether:
        # All ranks agreed to end here.
        raise
    except RankLostError as error:
        failures.announce(str(error))
        _end_all(world, failures)
    except BaseException as error:
        dead = f"{report}. " if (report := failures.report_dead()) else ""
        words = "interrupted" if isinstance(error, KeyboardInterrupt) else words_of(error)
        if words:
            logger.error("error: %srank %d of %d: %s", dead, world.rank, world.size, words)
        else:
            logger.exception("%srank %d of %d failed; stopping all", dead, world.rank, world.size)
        _end_all(world, failures)


def _keep_ase_apart() -> None:
    """Let ASE read, write and draw random numbers in each process by itself.

    Where mpi4py is imported it does so on the first rank and broadcasts. Ranks that read other
    files, or wait for the first one, would take such a message for another.
    """
    from ase import parallel

    parallel.world.comm = parallel.DummyMPI()


def _problem(first: Callable[[int], None] | None, size: int) -> str | None:
    """Do what comes first; what is wrong, in the user's words, if anything is."""
    try:
        if first:
            first(size)
    except (ValueError, OSError) as error:
        words = words_of(error)
        if words is None:
            raise
        return words
    return None


def _end_all(world: MPI.Intracomm, failures: FailureDetector) -> NoReturn:
    """End the other ranks too, which wait in a collective and would wait for ever."""
    failures.let_others_report()
    world.Abort(1)
    # Abort returns where the launcher is gone already. Leaving in good order would wait for the
    # dead, with whom this rank may share memory.
    os._exit(1)


@contextmanager
@collective
def _ended_together(barrier: Callable[[], object]) -> Iterator[None]:
    """Let nobody leave in good order before all do: who watches would think that they had died."""
    try:
        yield
    except EndedTogether:
        barrier()
        raise
    barrier()


@contextmanager
@collective
def _torchrun_ranks(
    timeout: datetime.timedelta, first: Callable[[int], None] | None
) -> Iterator[RankContext]:
    from torch._C._distributed_c10d import TCPStore

    rank, size, local_rank = (int(os.environ[name]) for name in _TORCHRUN_RANK)
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    with _starting(timeout.total_seconds(), _NO_STORE):
        # torchrun's own store lives in its agent; ranks are its clients.
        store = TCPStore(host, port, None, False, timeout=timeout)
        places = _exchange(store, rank, size, _this_process())
    failures = FailureDetector(places, rank=rank)
    failures.connect(_open_notices(host, port, timeout))
    try:
        with _watched(failures, partial(_meet_at, store, size)):
            if rank == 0:
                store.set(_FIRST, json.dumps(_problem(first, size)))
            store.wait([_FIRST], _ANY_TIME)
            problem = json.loads(store.get(_FIRST))
            context = RankContext(rank, size, local_device(local_rank), failures)
            with _process_group(context, store, timeout, partial(_meet_at, store, size)):
                if problem:
                    raise AgreedError(problem)
                yield context
    except RankLostError as error:
        failures.announce(str(error))
        # The first rank to leave takes the others with it.
        failures.let_others_report()
        os._exit(1)


def _exchange(store: Store, rank: int, size: int, place: tuple[str, int]) -> list[tuple[str, int]]:
    """What each rank has to say of itself, by rank."""
    store.set(f"{_PLACE}/{rank}", json.dumps(place))
    # In one request, which waits for all: one for each would be millions for thousands of ranks.
    said = store.multi_get([f"{_PLACE}/{other}" for other in range(size)])
    return [tuple(json.loads(one)) for one in said]


def _meet_at(store: Store, size: int) -> None:
    """Wait until all ranks have come, each time that they are called here."""
    count = store.add(_MET, 1)
    meeting = (count - 1) // size
    if count % size == 0:
        store.set(f"{_MET}/{meeting}", "yes")
    store.wait([f"{_MET}/{meeting}"], _ANY_TIME)


def _open_notices(host: str, port: int, timeout: datetime.timedelta) -> Store:
    """A connection to the store of its own: nobody waits for what somebody else asks there."""
    from torch._C._distributed_c10d import TCPStore

    # It may take its time to come about, where thousands connect at once.
    notices = TCPStore(host, port, None, False, timeout=timeout)
    notices.set_timeout(_NOTICES_TIMEOUT)
    return notices


@contextmanager
@collective
def _process_group(
    context: RankContext,
    store: Store,
    timeout: datetime.timedelta,
    barrier: Callable[[], object],
) -> Iterator[None]:
    import torch.distributed as dist

    backend = {"cuda": "nccl", "xpu": "xccl", "cpu": "gloo"}[context.device.type]
    dist.init_process_group(
        backend, store=store, rank=context.rank, world_size=context.world_size, timeout=timeout
    )
    # Gloo lets the first ranks go while the last ones still connect to them: with nothing to do
    # they would be gone before.
    barrier()
    try:
        yield
    except EndedTogether:
        # All ranks are here: they leave one by one, and nobody waits for another.
        dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def met_through_mpi() -> bool:
    """Whether the ranks of this run met through MPI. Under torchrun there may be none at all."""
    return _TORCHRUN not in os.environ


def _expected_world_size(variables: Mapping[str, str]) -> int:
    """Ranks that the launcher started; 0 if it did not say."""
    if not any(name in variables for name in _PROCESS_MANAGER):
        # srun started this process, but gave MPI no way to find the others.
        return int(variables.get(EXPECTED_WORLD_SIZE, variables.get("SLURM_STEP_NUM_TASKS", "0")))
    return int(variables.get(EXPECTED_WORLD_SIZE, "0"))


def _check_world(found: int, expected: int, library: str = "the MPI library") -> None:
    if expected and found != expected:
        raise ValueError(
            f"MPI finds {counted(found, 'rank')}, but {expected} were launched: {library} and "
            "the launcher do not belong together. Under Slurm set MTLPAR_SRUN_MPI (pmi2 for the "
            "mpich wheel, pmix for Open MPI, nothing on Cray); elsewhere use the mpiexec of the "
            "MPI that mpi4py was built with."
        )
