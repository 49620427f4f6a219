"""A polite crawler: every page of a site once, many at a time, but no faster than the site allows.

The site runs in this program: 60 pages that link to each other in circles, and one link that leads nowhere. It notes
when each page was asked for. A crawler of foreign sites would ask for their robots.txt first.
"""

import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.error import HTTPError
from urllib.parse import urljoin, urlsplit
from urllib.request import ProxyHandler, build_opener

import treadle

PAGES, PER_SECOND = 60, 100
asked_at: list[float] = []


class Site(BaseHTTPRequestHandler):
    """Has the pages /0 to /59."""

    def do_GET(self) -> None:
        """Answer one request."""
        asked_at.append(time.monotonic())
        is_missing = self.path == "/lost"
        number = 0 if is_missing else int(self.path[1:])
        links = [
            f"/{number + 1}" if number < PAGES - 1 else "/lost",
            f"/{number * 7 % PAGES}#top",
            "https://example.org/",
        ]
        body = "\n".join(f'<a href="{link}">{link}</a>' for link in links).encode()
        self.send_response(404 if is_missing else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def visit(page: str) -> list[str]:
    """Read one page, and return the pages of the same site that it links to."""
    try:
        with opener.open(page, timeout=10) as response:
            html = response.read().decode()
    except HTTPError as error:
        error.close()  # it holds the connection
        raise
    links = [urljoin(page, link) for link in re.findall(r'href="([^"#]+)', html)]
    return [link for link in links if urlsplit(link).netloc == urlsplit(page).netloc]


opener = build_opener(ProxyHandler({}))  # no proxy stands before this machine
with ThreadingHTTPServer(("127.0.0.1", 0), Site) as site:
    threading.Thread(target=site.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    root = f"http://127.0.0.1:{site.server_port}/0"
    gate = treadle.Limiter(max_per_second=PER_SECOND, max_concurrent=4)
    outcomes = list(treadle.traverse(visit, [root], limiter=gate, max_workers=8).outcomes())
    site.shutdown()

for outcome in outcomes:
    if outcome.status == "failed":
        print(f"{urlsplit(outcome.item).path}: {outcome.error}")
pages = sum(outcome.ok for outcome in outcomes)
seconds = max(asked_at) - min(asked_at)
print(f"{pages} pages, {len(asked_at)} requests in {seconds:.2f} s, {(len(asked_at) - 1) / seconds:.0f} a second")
assert len(asked_at) == len(outcomes) == PAGES + 1, "every page was asked for once"
