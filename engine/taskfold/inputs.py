"""Every input that can be reported."""

from taskfold.model.inputs import *
from taskfold.model.inputs import __all__
