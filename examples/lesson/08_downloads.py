"""Many downloads, one after another and then at once.

The server runs in this program and takes 50 ms to answer, as one far away would. A thread that waits needs no
processor, so sixteen can wait at the same time.
"""

import threading
import time
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import treadle


class Page(BaseHTTPRequestHandler):
    """Answers every path with a small text, after a while."""

    def do_GET(self) -> None:
        """Answer one request."""
        body = f"this is {self.path}".encode()
        time.sleep(0.05)  # as a server far away
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """Lets many clients knock at once."""

    request_queue_size = 64


def download(path: str) -> bytes:
    connection = HTTPConnection("127.0.0.1", server.server_port, timeout=10)
    try:
        connection.request("GET", path)
        return connection.getresponse().read()
    finally:
        connection.close()


server = Server(("127.0.0.1", 0), Page)
threading.Thread(target=server.serve_forever, daemon=True).start()
paths = [f"/page/{number}" for number in range(16)]

began = time.perf_counter()
pages = [download(path) for path in paths]
one_by_one = time.perf_counter() - began

began = time.perf_counter()
same_pages = list(treadle.map(download, paths))
at_once = time.perf_counter() - began

server.shutdown()
server.server_close()
assert pages == same_pages == [f"this is {path}".encode() for path in paths]
print(f"{len(paths)} downloads, one after another: {one_by_one:.2f} s")
print(f"{len(paths)} downloads, at once:           {at_once:.2f} s, {one_by_one / at_once:.0f} x as fast")
