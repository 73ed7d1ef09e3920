"""Numbers of a task's Config: Nomad reads each as a float of 64 bits, and writes it as its encoder does."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Final

from taskfold.model.dialect import Dialect

__all__ = ["with_go_floats"]

_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+-]*', re.DOTALL)
_EXCERPT_LENGTH: Final = 20
_SMALLEST_PLAIN, _FIRST_LARGE = 1e-6, 1e21
"""Between these the newer encoder writes no exponent."""
_FIRST_OLD_EXPONENT: Final = -4
_END_OF_OLD_PLAIN: Final = 6
"""The old encoder writes exponents below the first and from the second on. Source: Go's format `G`."""


def with_go_floats(text: bytes, dialect: Dialect) -> bytes:
    """Return a JSON text with its numbers as a dialect's Nomad writes floats; all else stays as it is. O(length).

    Raises ValueError for a number that 64 bits cannot hold. Source: recordings of 0.5.6 and 1.1.2.

    >>> from taskfold.model.dialect import DIALECTS
    >>> with_go_floats(b'{"exit_code":3,"huge":1e30,"text":"7"}', DIALECTS["1.1.2"])
    b'{"exit_code":3.0,"huge":1e+30,"text":"7"}'
    """

    def rewrite(token: re.Match[bytes]) -> bytes:
        literal = token[0]
        return literal if literal.startswith(b'"') else _float_text(literal, dialect).encode()

    return _TOKEN.sub(rewrite, text)


def _float_text(text: bytes, dialect: Dialect) -> str:
    """Return a number as Go writes the nearest float. Raises ValueError."""
    number = float(text)
    if number in {float("inf"), float("-inf")}:
        raise ValueError(f"expected a number of 64 bits, found {text[:_EXCERPT_LENGTH].decode()}…")
    sign, digits, exponent = Decimal(repr(number)).normalize().as_tuple()
    assert isinstance(exponent, int)
    minus, shortest = "-" * sign, "".join(map(str, digits))
    power = len(digits) + exponent - 1 if number else 0
    if dialect.has_new_client:
        is_plain = not number or _SMALLEST_PLAIN <= abs(number) < _FIRST_LARGE
    else:
        is_plain = _FIRST_OLD_EXPONENT <= power < _END_OF_OLD_PLAIN
    if is_plain:
        # A whole number is written with all its digits; what is behind the point is the shortest that reads back.
        plain = str(abs(int(number))) + ".0" if number == int(number) else format(Decimal(repr(abs(number))), "f")
        return minus + plain
    mantissa = minus + shortest[0] + (f".{shortest[1:]}" if len(shortest) > 1 else "")
    if not dialect.has_new_client:
        return f"{mantissa}E{power:+03d}"
    # A plus and two digits, but no zero behind a minus.
    return f"{mantissa}e{power:+03d}" if power > 0 else f"{mantissa}e{power}"
