"""Every error of this package."""

from taskfold.model.errors import *
