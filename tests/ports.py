"""Ports that tests may listen on."""

import contextlib
import random
import socket

_random = random.SystemRandom()  # Lightning seeds the other one, alike in every process that runs tests
_taken: list[socket.socket] = []


def free_port() -> int:
    """A port of this process until it ends, below those the system gives to outgoing connections.

    It is still free when a server comes back. Of those that the system picks by itself another process may get the same
    before we listen: Lightning's ranks do not find each other then, unless they are told a port in `MASTER_PORT`. Other
    processes that run tests keep off a port whose number is taken for UDP.
    """
    while True:
        port = _random.randrange(20_000, 32_000)
        mark = socket.socket(type=socket.SOCK_DGRAM)
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            mark.bind(("127.0.0.1", port))
            _taken.append(mark)
            return port
        mark.close()
