"""A pool of three workers, results as they complete, and an error that is caught.

``outcomes()`` gives one ``Outcome`` for each item and raises nothing: a failure is told like a result.
"""

import time

import treadle


def fetch(page: str) -> int:
    time.sleep({"slow": 0.3, "quick": 0.05}.get(page, 0.15))
    if page == "missing":
        raise FileNotFoundError(f"there is no page {page!r}")
    return 100 * len(page)


pages = ["slow", "missing", "quick", "middling"]
found: dict[str, int] = {}

for outcome in treadle.map(fetch, pages, max_workers=3, ordered=False).outcomes():
    try:
        found[outcome.item] = outcome.result()  # the value, or the error raised here
    except FileNotFoundError as error:
        print(f"{outcome.item}: failed: {error}")
    else:
        print(f"{outcome.item}: {found[outcome.item]} bytes")

print(f"{len(found)} of {len(pages)} pages")
assert found == {"slow": 400, "quick": 500, "middling": 800}
