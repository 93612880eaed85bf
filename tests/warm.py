"""Programs that begin where imports end: forks of one process that has imported everything.

Starting Python and importing torch or Snakemake takes a program longer than most tests keep it
busy. A launcher or a shell starts `ask.py` in place of Python; it asks the server that this file
is for a fork, which runs the program in its place. Where PYTHONPATH names a copy of mtlpar that was
edited, the fork imports that. Tests of how programs start, or of what they leave, start real ones.
"""

from __future__ import annotations

import atexit
import ctypes
import fcntl
import gc
import logging
import marshal
import multiprocessing.util
import os
import runpy
import select
import shlex
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import NamedTuple, NoReturn

import ask

_STAGES = ("download", "extract", "normalize", "pack", "train", "evaluate", "report")
_PRELOADED = (
    "torch._dynamo",
    "torch.distributed.checkpoint._fsspec_filesystem",
    "matplotlib.pyplot",
    "pyarrow.pandas_compat",
    "h5py",
    # Of httpx, by the first download.
    "httpcore",
    # What Snakemake imports at the start of every run, and only then.
    "snakemake.cli",
    "snakemake.profiles",
    "snakemake.report.html_reporter",
    "jsonschema",
    "smart_open",
    "yte",
    "mtlpar.cli",
    "mtlpar.config",
    "mtlpar.flow.command_line",
    "mtlpar.flow.records",
    "mtlpar.flow.snakefile",
    "mtlpar.flow.takeover",
    "mtlpar.machine.doctor",
    "mtlpar.parallel.allocator",
    *(f"mtlpar.{name}.stage" for name in _STAGES),
)
# Where nothing that a launcher numbers can be.
_FIRST_FREE = 200
# In place of the size of a request.
_STAYS = bytes(ask.SIZE_BYTES)
_folder: Path | None = None


def warm_python() -> list[str]:
    """The beginning of a command line that takes the place of ``python``."""
    return [sys.executable, "-S", ask.__file__, _server()]


def warm_environment() -> Path:
    """An environment that jobs can activate: programs in its ``bin`` are forks too."""
    return Path(_server()).parent


def with_warm_programs(path: str) -> str:
    """A PATH on which the ``mtlpar`` of `warm_environment` is found first."""
    return f"{warm_environment() / 'bin'}{os.pathsep}{path}"


def share_in(folder: Path) -> None:
    """Use the server that others of this run may have started, or start one for them.

    Args:
        folder: Of the run; the path of a socket in it must not be longer than 100 characters.
    """
    global _folder
    _folder = folder


@cache
def _server() -> str:
    """Socket of the server, which ends with the last process that joined it."""
    assert _folder is not None, "the tests share a server in a folder of their run"
    path = str(_folder / "socket")
    with _locked(_folder):
        stays = socket.socket(socket.AF_UNIX)
        try:
            stays.connect(path)
            stays.sendall(_STAYS)
        except OSError:
            stays.close()
            _write_environment(_folder / "bin", path)
            _start(path)
        else:
            atexit.register(stays.close)
    return path


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Keep others from starting a server, and one that runs from ending."""
    with (folder / "lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _write_environment(folder: Path, path: str) -> None:
    folder.mkdir(exist_ok=True)
    python = shlex.join([sys.executable, "-S", ask.__file__, path])
    for name, arguments in {"mtlpar": " -m mtlpar", "python": ""}.items():
        program = folder / name
        program.write_text(f'#!/bin/sh\nexec {python}{arguments} "$@"\n')
        program.chmod(0o755)
    (folder / "activate").write_text(f'PATH="{folder}:$PATH"\n')


def _start(path: str) -> None:
    """Start a server, which this process joins by being its standard input."""
    # One thread: a fork has no others.
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    server = subprocess.Popen(
        [sys.executable, __file__, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, **threads},
    )
    atexit.register(server.communicate)
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n"


class _Program(NamedTuple):
    """What a fork is to run, and its end of the connection to who asked for it."""

    asking: socket.socket
    arguments: list[str]
    environment: dict[str, str]
    folder: str
    files: dict[int, int]


def _tell_number(asking: socket.socket, number: int) -> None:
    # Whoever asked may be gone.
    with suppress(OSError):
        asking.sendall(number.to_bytes(ask.SIZE_BYTES, "little", signed=True))


def _hear(asking: socket.socket) -> _Program | None:
    """Take a request from a connection; None from a process that joins."""
    size, files, _, _ = socket.recv_fds(asking, ask.SIZE_BYTES, 8)
    if size == _STAYS:
        return None
    request = b""
    while len(request) < int.from_bytes(size, "big"):
        request += asking.recv(1 << 20)
    arguments, environment, folder, numbers = marshal.loads(request)
    # Out of the way of the numbers that they are to have.
    moved = {}
    for number, file in zip(numbers, files, strict=True):
        moved[number] = fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, _FIRST_FREE)
        os.close(file)
    return _Program(asking, arguments, environment, folder, moved)


def _serve(path: str) -> _Program | None:
    """Fork for every request, until all who joined are gone; returns what a fork has to run."""
    import selectors

    # What is imported stays: looking for garbage in it would take a fifth of the time.
    gc.disable()
    for name in _PRELOADED:
        __import__(name)
    # What is the same for all jobs, and each would find out or make.
    from mtlpar.cli import build_parser
    from mtlpar.flow.digest import code_digest
    from mtlpar.flow.records import _versions
    from mtlpar.sources.registry import get_source, packaged_names

    for name in packaged_names():
        get_source(name)
    for name in sys.modules.copy():
        if name.startswith("mtlpar.") and name.endswith(".stage"):
            code_digest(name)
    build_parser()
    _versions()
    for finalizer in weakref.finalize._registry:  # type: ignore[attr-defined]
        finalizer.atexit = False
    # Forks compare theirs with what was imported.
    _files(_imported())
    gc.collect()
    gc.freeze()
    gc.enable()
    running: dict[int, tuple[int, socket.socket]] = {}
    with selectors.DefaultSelector() as events, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen(64)
        events.register(listener, selectors.EVENT_READ, "new")
        events.register(0, selectors.EVENT_READ, "stays")
        staying: set[int | socket.socket] = {0}
        os.write(1, b"ready\n")
        while True:
            for key, _ in events.select():
                if key.data == "stays":
                    events.unregister(key.fileobj)
                    staying.discard(key.fileobj)
                    if not staying and _ends(path, listener):
                        return None
                elif key.data == "new":
                    asking = listener.accept()[0]
                    program = _hear(asking)
                    if program is None:
                        staying.add(asking)
                        events.register(asking, selectors.EVENT_READ, "stays")
                        continue
                    process = os.fork()
                    if process == 0:
                        for handle, asking in running.values():
                            os.close(handle)
                            asking.close()
                        return program
                    for file in program.files.values():
                        os.close(file)
                    _tell_number(program.asking, process)
                    handle = os.pidfd_open(process)
                    running[process] = handle, program.asking
                    events.register(handle, selectors.EVENT_READ, process)
                    events.register(program.asking, selectors.EVENT_READ, process)
                elif key.data in running:
                    handle, asking = running[key.data]
                    if key.fileobj is asking:
                        # Who asked for it is gone.
                        events.unregister(asking)
                        os.kill(key.data, signal.SIGKILL)
                        continue
                    status = os.waitstatus_to_exitcode(os.waitpid(key.data, 0)[1])
                    if asking in events.get_map():
                        events.unregister(asking)
                        _tell_number(asking, status)
                    asking.close()
                    events.unregister(handle)
                    os.close(handle)
                    del running[key.data]


def _ends(path: str, listener: socket.socket) -> bool:
    """Stop listening, unless another process is just about to join."""
    with _locked(Path(path).parent):
        if select.select([listener], [], [], 0)[0]:
            return False
        Path(path).unlink()
        return True


def _take_host_name_of(asking: socket.socket) -> None:
    """Live on the node that whoever asked believes to be on."""
    peer = asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 3 * ctypes.sizeof(ctypes.c_int))
    theirs, own = (Path(f"/proc/{one}/ns/uts") for one in (memoryview(peer).cast("i")[0], "self"))
    # What nobody may see is not another one.
    with suppress(OSError):
        if theirs.readlink() != own.readlink():
            with theirs.open() as namespace:
                ctypes.CDLL(None).setns(namespace.fileno(), 0)


def _take_code_from(path: str) -> None:
    """Import the package from the folders of PYTHONPATH, if it is another one there."""
    folders = [Path(folder) for folder in path.split(os.pathsep) if folder]
    sys.path[:0] = map(str, folders)
    packages = [folder / "mtlpar" for folder in folders if (folder / "mtlpar").is_dir()]
    if packages and _files(packages[0]) != _files(_imported()):
        for name in [name for name in sys.modules if name.partition(".")[0] == "mtlpar"]:
            del sys.modules[name]


def _imported() -> Path:
    return Path(sys.modules["mtlpar"].__file__ or "").parent


@cache
def _files(package: Path) -> set[tuple[str, int, int]]:
    """Names, sizes and times of all modules; copies have those of the original until edited."""
    found = set()
    # Not with pathlib, which takes ten times as long.
    for folder, _, names in os.walk(package):
        for name in names:
            if name.endswith(".py"):
                path = os.path.join(folder, name)  # noqa: PTH118
                status = os.stat(path)  # noqa: PTH116
                relative = path.removeprefix(str(package))
                found.add((relative, status.st_size, status.st_mtime_ns))
    return found


def _run(program: _Program) -> NoReturn:
    """Become the process that was asked for, and end as it would."""
    try:
        _become(program)
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
        _end(end.code if isinstance(end.code, int) else int(end.code is not None))
    except BaseException:  # noqa: BLE001
        sys.excepthook(*sys.exc_info())
        _end(1)
    _end(0)


def _end(status: int) -> NoReturn:
    """End without taking down what the server imported: a fifth of the time of most programs."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    if "mpi4py.MPI" in sys.modules:
        from mpi4py import MPI

        if MPI.Is_initialized() and not MPI.Is_finalized():
            MPI.Finalize()
    sys.stdout.flush()
    sys.stderr.flush()
    # Not Python's: handlers of C still run, until the one that `_become` left.
    ctypes.PyDLL(None).exit(status)
    raise AssertionError


def _leave_to_the_server() -> None:
    """Let the fork end what it begins itself: torch would unregister thousands of kernels."""
    # Handlers of C run backwards: those of what the fork loads, such as MPI's, and none before.
    ctypes.CDLL(None).on_exit(ctypes.CDLL(None)._exit, None)
    atexit._clear()
    for handler in (
        logging.shutdown,
        multiprocessing.util._exit_function,  # type: ignore[attr-defined]
        weakref.finalize._exitfunc,  # type: ignore[attr-defined]
    ):
        atexit.register(handler)


def _become(program: _Program) -> None:
    _leave_to_the_server()
    _take_host_name_of(program.asking)
    program.asking.close()
    for number, file in program.files.items():
        os.dup2(file, number, inheritable=True)
        os.close(file)
    # Python's own remember whether what the server wrote to could be sought.
    sys.stdout, sys.stderr = (os.fdopen(fd, "w", buffering=1, closefd=False) for fd in (1, 2))
    os.environ.clear()
    os.environ.update(program.environment)
    os.chdir(program.folder)
    _take_code_from(program.environment.get("PYTHONPATH", ""))
    first, *rest = program.arguments
    if first == "-m":
        sys.argv = rest
        sys.path.insert(0, program.folder)
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    elif first == "-c":
        sys.argv = ["-c", *rest[1:]]
        sys.path.insert(0, program.folder)
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    else:
        sys.argv = program.arguments
        sys.path.insert(0, str(Path(first).parent))
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    asked_for = _serve(sys.argv[1])
    if asked_for is not None:
        _run(asked_for)
