"""What several threads share is one thing, and stays so."""

from __future__ import annotations

from typing import NoReturn


class Shared:
    """Something that is not to be copied: two halves of it would share the one thing and not the other."""

    __slots__ = ()

    def __reduce__(self) -> NoReturn:
        """Refuse to be copied or pickled, which both ask this."""
        kind = type(self).__name__
        raise TypeError(f"a treadle.{kind} cannot be copied or pickled: threads share it as it is, processes cannot")
