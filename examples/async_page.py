"""Blocking calls in an asyncio program: ``async for`` takes their results, and the loop stays free.

The calls run on threads. A coroutine that ticks beside them shows that the loop is not held up.
"""

import asyncio
import time

import treadle


def read_section(name: str) -> str:
    """Stand for a library that blocks."""
    time.sleep(0.05)
    return f"<h2>{name}</h2>"


async def build_page(names: list[str]) -> str:
    return "\n".join([section async for section in treadle.map(read_section, names, max_workers=4)])


async def main() -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0.01)
            ticks += 1

    ticker = asyncio.create_task(tick())
    page = await build_page(["News", "Weather", "Sports", "Chess", "Letters", "Puzzles", "Music", "Books"])
    ticker.cancel()
    print(page)
    print(f"the loop ticked {ticks} times meanwhile")


asyncio.run(main())
