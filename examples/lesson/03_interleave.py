"""Two threads take turns, in an order that nobody promised.

Each sleeps now and then, and while it sleeps the other goes on. Run it twice: the lines may come differently, but
those of one thread always come in their own order.
"""

import random
import time

import treadle

order: list[str] = []


def count(name: str) -> None:
    for number in range(1, 5):
        time.sleep(random.uniform(0.01, 0.05))
        order.append(f"{name}{number}")


with treadle.TaskGroup() as group:
    group.submit(count, "A")
    group.submit(count, "b")

print("together:", *order)
print("of A:    ", *[step for step in order if step.startswith("A")])
print("of b:    ", *[step for step in order if step.startswith("b")])
assert sorted(order) == ["A1", "A2", "A3", "A4", "b1", "b2", "b3", "b4"]
