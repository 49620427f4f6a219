"""One result for each number, in the order of the numbers, whichever call was ready first.

``treadle.map`` is the ``for`` loop that makes its calls at the same time.
"""

import time

import treadle


def square(number: int) -> int:
    time.sleep(0.05 * (5 - number))  # the first takes longest
    ready.append(number)
    return number * number


ready: list[int] = []
numbers = [1, 2, 3, 4]
squares = list(treadle.map(square, numbers))

print("numbers:         ", numbers)
print("were ready as:   ", ready)
print("squares in order:", squares)
assert squares == [1, 4, 9, 16]
