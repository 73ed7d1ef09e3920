"""How what we write is compared with what a real Nomad sent."""

from __future__ import annotations

import json


def same_to_the_letter(written: str, sent: str) -> bool:
    """Assert that two texts are the same, and tell whether they are to the letter.

    Go writes maps in random order, so that two answers at one index differ: then the parsed values are the same, and so
    are the characters, however ordered. Numbers and escapes are spelled alike, that is.
    """
    if written == sent:
        return True
    assert json.loads(written) == json.loads(sent)
    assert sorted(written) == sorted(sent)
    return False
