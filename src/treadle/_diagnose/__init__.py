"""What a function does with its time, and how its calls are made fastest: found out by making some of them."""
