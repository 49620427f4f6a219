"""Start something, go on with something else, and wait for it.

A thread is a second line of execution through the same program. ``submit`` starts one and returns at once; the end
of the ``with`` block waits until it has ended, as ``join()`` does for a thread of ``threading``.
"""

import time

import treadle


def boil_water() -> str:
    print("  kettle: on")
    time.sleep(0.3)  # it takes its time
    print("  kettle: boiling")
    return "hot water"


print("main: start the kettle")
with treadle.TaskGroup() as group:
    kettle = group.submit(boil_water)
    time.sleep(0.1)  # something else to do
    print("main: meanwhile, two cups")
    print("main: has the water boiled?", kettle.done())
print("main: and now?", kettle.done())
print("main: got", kettle.result())
