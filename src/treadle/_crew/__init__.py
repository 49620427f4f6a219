"""Workers, their number and their chunks."""
