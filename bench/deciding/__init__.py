"""How well Treadle decides: against the best setting that an exhaustive search finds in the same run."""
