"""The demo's web server: files of known content, each after 50 to 150 ms, as from far away.

Run as a process of its own, so that its work does not count as the client's. Prints its port, and ends when
its standard input does.
"""

from __future__ import annotations

import random
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from treadle._core.real_time import sleep

MIN_LATENCY_SECONDS = 0.05
MAX_LATENCY_SECONDS = 0.15
MAX_FILE_BYTES = 64 * 1024


def content_of(name: str) -> bytes:
    """Return the bytes of the file ``name``, the same wherever this is called."""
    dice = random.Random(name)
    return dice.randbytes(dice.randrange(1024, MAX_FILE_BYTES))


def latency_of(name: str) -> float:
    """Return how many seconds the server takes to answer for ``name``."""
    return random.Random("latency of " + name).uniform(MIN_LATENCY_SECONDS, MAX_LATENCY_SECONDS)


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        name = self.path.strip("/")
        sleep(latency_of(name))
        body = content_of(name)
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: the screen is the client's."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


def main() -> None:
    """Serve until standard input ends."""
    server = _Server(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_address[1], flush=True)
    sys.stdin.read()


if __name__ == "__main__":
    main()
