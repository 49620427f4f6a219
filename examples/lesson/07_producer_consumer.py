"""A producer and two consumers, with a channel between them that holds three orders at most.

The waiter puts orders in and waits when there is no room, so a fast one cannot flood the kitchen. ``join`` waits until
each order is cooked, not just taken. After ``close``, the cooks' loops end.
"""

import time

import treadle

orders: treadle.Channel[str] = treadle.Channel(maxsize=3)
dishes: treadle.Channel[str] = treadle.Channel(maxsize=100)


def cook(name: str) -> int:
    cooked = 0
    for order in orders:
        time.sleep(0.05)  # the work
        dishes.put(f"{order} by {name}")
        orders.task_done()
        cooked += 1
    return cooked


with treadle.TaskGroup() as group:
    cooks = [group.submit(cook, name) for name in ("Ann", "Ben")]
    for number in range(1, 11):
        try:
            orders.put(f"order {number}", timeout=0.01)
        except TimeoutError:
            print(f"waiter: the kitchen is full, order {number} has to wait")
            orders.put(f"order {number}")
    orders.join(timeout=10)
    print("waiter: all is cooked")
    orders.close()

print("at the table:", dishes.get(), "and", len(dishes), "more")
assert sum(task.result() for task in cooks) == 10

while True:
    try:
        dishes.get(timeout=0.05)
    except TimeoutError:
        print("nothing more comes within 0.05 s")
        break
