"""Asks the server of `warm` for a fork that runs a program, and ends as the fork does.

It is started in place of Python, with the server's socket and what Python would be given:

    python -S ask.py SOCKET -m mtlpar train ...

The fork gets its files, environment and folder, and the signals that it gets; killed, it takes the
fork with it. A run of the workflow starts a hundred of these: what they import counts, so they use
what `signal` and `socket` are made of, whose enumerations take longer than all else here.
"""

import _signal
import _socket
import marshal
import os
import sys

SIZE_BYTES = 8
"""Of the numbers that go over the socket."""

_PASSED_ON = (_signal.SIGHUP, _signal.SIGINT, _signal.SIGTERM, _signal.SIGUSR1, _signal.SIGUSR2)


def _ask(path: str, arguments: list[str]) -> int:
    """Let the server run a program; returns its exit status."""
    numbers = [0, 1, 2, *(int(os.environ[name]) for name in ("PMI_FD",) if name in os.environ)]
    folder = os.getcwd()  # noqa: PTH109
    request = marshal.dumps([arguments, dict(os.environ), folder, numbers])
    files = b"".join(number.to_bytes(4, sys.byteorder) for number in numbers)
    server = _socket.socket(_socket.AF_UNIX)
    server.connect(path)
    size = len(request).to_bytes(SIZE_BYTES, "big")
    server.sendmsg([size], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, files)])
    server.sendall(request)
    fork = _hear_number(server)
    for one in _PASSED_ON:
        _signal.signal(one, lambda number, _: _pass_on(number, fork))
    # In place of the signal to stop that nobody can hear.
    _signal.signal(_signal.SIGTSTP, lambda *_: _pass_on(_signal.SIGSTOP, fork))
    status = _hear_number(server)
    server.close()
    if status < 0:
        if -status != _signal.SIGKILL:
            _signal.signal(-status, _signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


def _hear_number(server: _socket.socket) -> int:
    # One when the server is gone.
    return int.from_bytes(server.recv(SIZE_BYTES) or b"\x01", "little", signed=True)


def _pass_on(number: int, fork: int) -> None:
    try:  # noqa: SIM105 (contextlib would be imported)
        os.kill(fork, number)
    except ProcessLookupError:
        pass


if __name__ == "__main__":
    sys.exit(_ask(sys.argv[1], sys.argv[2:]))
