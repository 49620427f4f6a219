"""Log from many threads: whole lines, one after another, and no worker waits for the disk.

``print`` may write a line in two pieces, and those of several threads then mix. A handler of ``logging`` writes one
record at a time, so lines stay whole; but it writes in the thread that logs, and all others wait meanwhile. Here the
workers only put records into a queue, and one thread of a ``QueueListener`` writes them.
"""

import logging
import logging.handlers
import queue
import re
import tempfile
import time
from collections import Counter
from pathlib import Path

import treadle

log = logging.getLogger("shop")


class SlowDisk(logging.FileHandler):
    """Takes its time for each record."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        time.sleep(0.0005)
        super().emit(record)


def handle(order: int) -> int:
    log.info("order %d: begun", order)
    time.sleep(0.002)  # the work
    log.info("order %d: done", order)
    return order


with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "shop.log"
    file = SlowDisk(path)
    file.setFormatter(logging.Formatter("%(asctime)s %(threadName)s %(message)s"))
    records: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    log.setLevel(logging.INFO)
    log.addHandler(logging.handlers.QueueHandler(records))

    listener = logging.handlers.QueueListener(records, file)
    listener.start()
    began = time.perf_counter()
    treadle.for_each(handle, range(500), max_workers=16, name="order")
    took = time.perf_counter() - began
    listener.stop()  # writes what is still in the queue
    file.close()
    lines = path.read_text().splitlines()

form = re.compile(r"[\d-]+ [\d:,]+ (treadle-order-\d+) order (\d+): (?:begun|done)")
matches = [form.fullmatch(line) for line in lines]
assert all(matches), "every line is whole"
assert Counter(int(match[2]) for match in matches if match) == dict.fromkeys(range(500), 2)

threads = {match[1] for match in matches if match}
print(f"{len(lines)} lines from {len(threads)} threads, each of them whole, none missing")
print(f"the workers were done after {took:.2f} s, the file {time.perf_counter() - began:.2f} s after they began")
