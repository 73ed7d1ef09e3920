"""Every error of this package."""

from taskfold.model.errors import *
from taskfold.model.errors import __all__
