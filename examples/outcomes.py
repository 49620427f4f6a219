"""Some calls fail, the others go on; those that failed for a reason that passes are made once more.

``outcomes()`` gives one ``Outcome`` for each item instead of raising the first error.
"""

import threading

import treadle

lock = threading.Lock()
asked: set[str] = set()


def price_of(product: str) -> int:
    """Stand for a service that is busy the first time it is asked for some things, and lacks others."""
    with lock:
        is_new = product not in asked
        asked.add(product)
    if product == "unicorn":
        raise KeyError(f"there is no {product}")
    if is_new and product.startswith("b"):
        raise ConnectionError("too busy, come again")
    return 10 * len(product)


prices: dict[str, int] = {}
products = ["apple", "banana", "bread", "cheese", "unicorn", "wine"]
for attempt in (1, 2):
    again = []
    for outcome in treadle.map(price_of, products).outcomes():
        if outcome.ok:
            prices[outcome.item] = outcome.result()
        elif isinstance(outcome.error, ConnectionError):
            again.append(outcome.item)
        else:
            print(f"{outcome.item}: given up, {outcome.error!r}")
    print(f"attempt {attempt}: {len(prices)} prices so far, to be asked again: {again}")
    products = again

print(dict(sorted(prices.items())))
