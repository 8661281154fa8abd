"""How fast bytes go to another process and back over a bare TCP connection."""

import socket
import subprocess
import sys
import time


class RawTcp:
    """A process that sends back what it gets, and the connection to it."""

    def __init__(self, size_bytes: int) -> None:
        """size_bytes: of what goes there and back at once."""
        self._sent = memoryview(bytearray(size_bytes))
        self._received = memoryview(bytearray(size_bytes))
        self._server = subprocess.Popen(  # noqa: S603  our own program
            [sys.executable, "-m", "mpreg_nb.benchmark.raw_tcp", str(size_bytes)],
            stdout=subprocess.PIPE,
            text=True,
        )
        if self._server.stdout is None:
            raise AssertionError("the server was started with a pipe")
        port = int(self._server.stdout.readline())
        self._link = socket.create_connection(("127.0.0.1", port))

    def gb_per_s(self) -> float:
        """Send and receive once; return the rate, both ways counted."""
        began = time.perf_counter()
        self._link.sendall(self._sent)
        _fill(self._link, self._received)
        return 2 * len(self._sent) / (time.perf_counter() - began) / 1e9

    def close(self) -> None:
        """End the connection and the process."""
        self._link.close()
        self._server.communicate()


def _fill(link: socket.socket, room: memoryview) -> bool:
    """Receive until `room` is full; False: the other end has closed."""
    while len(room):
        count = link.recv_into(room)
        if not count:
            return False
        room = room[count:]
    return True


def _serve(size_bytes: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        sys.stdout.write(f"{server.getsockname()[1]}\n")
        sys.stdout.flush()
        link, _ = server.accept()
    room = memoryview(bytearray(size_bytes))
    with link:
        while _fill(link, room):
            link.sendall(room)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
