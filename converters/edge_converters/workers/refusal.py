"""How a job says that it will not do something; standard library alone."""

from __future__ import annotations

__all__ = ["Refusal"]


class Refusal(Exception):
    """A model that is turned down on purpose.

    Args:
        what: What is the case.
        expected: What should have been there.
        remedy: What can be done about it.
        exit_code: 1; or 3 where it could be opened, but not without being trusted.
    """

    def __init__(self, what: str, expected: str, remedy: str, *, exit_code: int = 1) -> None:
        self.what = what
        self.expected = expected
        self.remedy = remedy
        self.exit_code = exit_code
        super().__init__(what)
