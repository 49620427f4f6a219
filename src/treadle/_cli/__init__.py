"""The commands, one module each; no logic that the library lacks."""
