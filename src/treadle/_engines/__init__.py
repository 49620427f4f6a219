"""One way to make calls per module."""
