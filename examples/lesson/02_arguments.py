"""Pass arguments: ``submit`` takes them as the function does, by position and by name.

Each call has its own, so three calls of one function do not get in each other's way.
"""

import treadle


def greet(name: str, greeting: str = "Hello", *, mark: str = ".") -> str:
    return f"{greeting}, {name}{mark}"


with treadle.TaskGroup() as group:
    tasks = [
        group.submit(greet, "Ada"),
        group.submit(greet, "Grace", "Good morning"),
        group.submit(greet, "Linus", mark="!"),
    ]

for task in tasks:
    print(task.result())
