"""Every input that can be reported."""

from typing import TYPE_CHECKING

from taskfold.model.inputs import *

if not TYPE_CHECKING:
    from taskfold.model.inputs import __all__
