"""A chat server: what one says all hear. ``chat_server.py 9000``, and then ``nc localhost 9000``.

People, lines that wait for one of them and bytes in a line are bounded; who does not read for a second is shown out.
On SIGTERM nobody comes in any more, what waits for people is delivered, and the server ends.
"""

import signal
import socket
import struct
import sys
from contextlib import suppress

import treadle

MAX_PEOPLE, MAX_LINES, MAX_LINE_BYTES, PATIENCE_SECONDS = 4, 100, 1000, 1
people: treadle.Guarded[dict[socket.socket, treadle.Channel[str]]] = treadle.Guarded({})
signals: list[int] = []


def tell(line: str) -> None:
    with people as handle:
        everybody = handle.value.copy()
    for person, outbox in everybody.items():
        try:
            with suppress(treadle.ChannelClosed):  # has just left
                outbox.put(line, timeout=PATIENCE_SECONDS)
        except TimeoutError:
            show_out(person, socket.SHUT_RDWR)


def show_out(person: socket.socket, how: int) -> None:
    with suppress(OSError):  # is gone already
        person.shutdown(how)


def listen(person: socket.socket, outbox: treadle.Channel[str]) -> None:
    with suppress(OSError), person.makefile("rb") as lines:
        while line := lines.readline(MAX_LINE_BYTES):
            tell(line.decode(errors="replace").rstrip())
    with people as handle:
        del handle.value[person]
    outbox.close()


def speak(person: socket.socket, outbox: treadle.Channel[str]) -> None:
    with person, suppress(OSError):
        try:
            for line in outbox:
                person.sendall(f"{line}\n".encode())
        finally:
            show_out(person, socket.SHUT_RDWR)


signal.signal(signal.SIGTERM, lambda number, _: signals.append(number))
with treadle.TaskGroup(2 * MAX_PEOPLE) as group, socket.create_server(("127.0.0.1", int(sys.argv[1]))) as door:
    print(f"listening on port {door.getsockname()[1]}", flush=True)
    door.settimeout(0.1)
    while not signals:
        with suppress(TimeoutError):  # looks for signals now and then
            people.wait_for(lambda everybody: len(everybody) < MAX_PEOPLE, timeout=0.1)
            person, _ = door.accept()
            person.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", PATIENCE_SECONDS, 0))
            with people as handle:
                handle.value[person] = outbox = treadle.Channel[str](MAX_LINES)
            group.submit(listen, person, outbox)
            group.submit(speak, person, outbox)
    tell("the server closes")
    with people as handle:
        for person in handle.value:
            show_out(person, socket.SHUT_RD)
