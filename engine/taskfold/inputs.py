"""Every input that can be reported."""

from taskfold.model.inputs import *
