"""Three things that belong together: all of them, or none, and nothing left running.

The first group is fine. In the second one call fails, so the other two are cancelled: one that sleeps, and one
that waits in a socket, which a callback shuts down.
"""

import socket
import time

import treadle


def load(name: str, seconds: float) -> str:
    """Stand for a query."""
    treadle.sleep(seconds)
    return name.upper()


def fail() -> str:
    raise ConnectionError("the warehouse does not answer")


def listen(connection: socket.socket) -> bytes:
    with treadle.on_cancel(connection.shutdown, socket.SHUT_RDWR):
        return connection.recv(100)


with treadle.TaskGroup(timeout=10, name="page") as group:
    user = group.submit(load, "user", 0.1)
    cart = group.submit(load, "cart", 0.1)
    offers = group.submit(load, "offers", 0.1)
print(user.result(), cart.result(), offers.result())

ours, theirs = socket.socketpair()
began = time.perf_counter()
try:
    with treadle.TaskGroup(name="page") as group:
        sleeping = group.submit(load, "user", 60)
        listening = group.submit(listen, ours)
        group.submit(fail)
except* ConnectionError as failures:
    print(failures.exceptions[0], "-", failures.exceptions[0].__notes__[0])
took = time.perf_counter() - began
ours.close()
theirs.close()

assert sleeping.cancelled()
assert listening.done()
print(f"the rest was cancelled, and over after {took:.1f} s, not 60")
