"""Every task event, by name."""

from typing import TYPE_CHECKING

from taskfold.model.events import *

if not TYPE_CHECKING:
    from taskfold.model.events import __all__
