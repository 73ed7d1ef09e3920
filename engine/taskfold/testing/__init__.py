"""What those test who build on taskfold: contracts for stores of their own (``pip install 'taskfold[testing]'``)."""

import pytest

# So that a promise that is broken is shown with its values.
pytest.register_assert_rewrite("taskfold.testing.logs")

from taskfold.testing.logs import LogContract  # noqa: E402 - rewritten when it is imported

__all__ = ["LogContract"]
