"""The exception for bad input, and the checks of numbers and options that several public functions share."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from numbers import Integral, Real
from typing import Any


class InputError(ValueError):
    """The one exception for bad input; its message says what was expected and what came."""


def whole_number(value: Any, name: str, least: int = 1, most: int | None = None) -> int:
    """``value`` as an int from ``least`` to ``most``, or without an upper limit.

    Raises:
        InputError: another number, or no whole number; numpy's integers are accepted, True and 2.0 are not.
    """
    whole = isinstance(value, Integral) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        limits = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise InputError(f"expected {name} as a whole number {limits}, got {value!r}")
    return int(value)


def finite_number(
    value: Any, name: str, least: float = 0.0, most: float = sys.float_info.max, above: bool = False
) -> float:
    """``value`` as a float from ``least``, or ``above`` it, to ``most``; :class:`InputError` for NaN and all others."""
    real = isinstance(value, Real) and not isinstance(value, bool)
    number = float(value) if real else float("nan")
    if not least <= number <= most or (above and number == least):
        limits = f"{'above' if above else 'of at least'} {least:g}"
        limits = limits if most == sys.float_info.max else f"from {least:g} to {most:g}"
        raise InputError(f"expected {name} as a number {limits}, got {value!r}")
    return number


def one_line(error: Exception) -> str:
    """Another library's message on one line of at most 300 characters, or else the error's kind."""
    return " ".join(str(error).split())[:300] or type(error).__name__


@contextmanager
def naming(place: Any) -> Iterator[None]:
    """Adds to the message of an :class:`InputError` where what is wrong was read."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{error}, in {place}") from None


def check_steps(steps: Any, most: int | None = None) -> int:
    """Euler steps as an int of at least 1; :class:`InputError` for anything else."""
    return whole_number(steps, "steps", 1, most)


def check_seed(seed: Any) -> int:
    """A seed as an int in [0, 2^63); :class:`InputError` for anything else."""
    return whole_number(seed, "a seed", 0, 2**63 - 1)


def check_options(given: Iterable[str], allowed: Iterable[str], others: Iterable[str] = ()) -> None:
    """Raises :class:`InputError` for the name of an option outside ``allowed``; ``others`` are named in it, too."""
    if unknown := sorted(set(given) - set(allowed)):
        raise InputError(f"expected options out of {', '.join([*others, *allowed])}, got {', '.join(unknown)}")
