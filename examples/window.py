"""A window that stays responsive while work goes on. Needs a display; with ``--close`` it closes when all is done.

A window belongs to the thread that made it, and that thread must not wait. So the work runs on others, and what they
have to show they give to ``show``: ``on_loop`` has it called on the window's own thread.
"""

import sys
import time
import tkinter
from itertools import pairwise
from tkinter import ttk

import treadle

pictures = range(60)


def develop(picture: int) -> int:
    time.sleep(0.1)  # the work
    return picture


def develop_all() -> None:
    """Run on a thread of the group, not on the window's."""
    for picture in treadle.map(develop, pictures, max_workers=4):
        show(picture)


def show_picture(picture: int) -> None:
    bar["value"] = picture + 1
    label["text"] = f"{picture + 1} of {len(pictures)} pictures"
    if picture + 1 == len(pictures) and "--close" in sys.argv:
        window.after(100, window.destroy)


def tick() -> None:
    """Show that the window is alive: count, 50 times a second."""
    ticks.append(time.perf_counter())
    clock["text"] = f"{len(ticks)} ticks of the window's clock"
    window.after(20, tick)


window = tkinter.Tk()
window.title("Pictures")
label = ttk.Label(window, text="starting")
bar = ttk.Progressbar(window, maximum=len(pictures), length=300)
clock = ttk.Label(window)
button = ttk.Button(window, text="Stop", command=window.destroy)
for widget in (label, bar, clock, button):
    widget.pack(padx=20, pady=8)

ticks: list[float] = []
tick()
show = treadle.on_loop(show_picture, window)
with treadle.TaskGroup() as group:
    work = group.submit(develop_all)
    window.mainloop()
    group.cancel()  # nobody looks any more

pause = max(later - earlier for earlier, later in pairwise(ticks))
print("stopped" if work.cancelled() else f"all {len(pictures)} pictures are there")
print(f"the window's clock ticked {len(ticks)} times meanwhile, and was never late by more than {pause - 0.02:.2f} s")
