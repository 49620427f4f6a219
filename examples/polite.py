"""A service that allows 100 calls a second and is sometimes busy: one limiter, retries, nobody upset.

The server runs in this program. It answers 503 with ``Retry-After`` to every fifth request, and counts how many
requests came in its fastest second.
"""

import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from urllib.error import HTTPError
from urllib.request import ProxyHandler, build_opener

import treadle

arrivals: list[float] = []
numbers = count(1)


class Service(BaseHTTPRequestHandler):
    """Is busy every fifth time."""

    def do_GET(self) -> None:
        """Answer one request."""
        arrivals.append(time.monotonic())
        is_busy = next(numbers) % 5 == 0
        body = b"" if is_busy else b"hello"
        self.send_response(503 if is_busy else 200)
        if is_busy:
            self.send_header("Retry-After", "0.05")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """Lets many clients knock at once."""

    request_queue_size = 64


def ask(number: int) -> object:
    try:
        with opener.open(f"http://127.0.0.1:{server.server_port}/{number}", timeout=10) as response:
            return response.read()
    except HTTPError as error:
        error.close()  # it holds the connection
        raise


opener = build_opener(ProxyHandler({}))  # no proxy stands before this machine
server = Server(("127.0.0.1", 0), Service)
threading.Thread(target=server.serve_forever, daemon=True).start()

limiter = treadle.Limiter(max_per_second=100, burst=5)
retry = treadle.Retry(max_attempts=10, retry_on=HTTPError, backoff=0.01)
with treadle.map(ask, range(80), retry=retry, limiter=limiter) as run:
    answers = list(run)

server.shutdown()
server.server_close()
assert answers == [b"hello"] * 80
busiest = max(sum(start <= other < start + 1 for other in arrivals) for start in arrivals)
print(f"{len(answers)} answers, {run.stats.retried} calls made again, {len(arrivals)} requests")
print(f"in the busiest second the server had {busiest} of them; 105 were allowed")
