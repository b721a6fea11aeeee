"""The exception for bad input."""

from __future__ import annotations


class InputError(ValueError):
    """The one exception for bad input; its message says what was expected and what came."""
