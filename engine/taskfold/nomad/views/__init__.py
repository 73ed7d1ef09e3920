"""Typed, read-only views of the parts of an allocation that travel as JSON text.

An allocation keeps Job, Metrics and the like as the very bytes Nomad sent, so that they go out as they came in. A view
is decoded from those bytes when somebody asks; changing nothing and forgetting nothing is the business of the bytes.

Every view of `job`, `resources`, `services`, `status` and `allocation` is here, and what reads one (`decode`).
"""

from taskfold.model.policy import RestartPolicy as RestartPolicy
from taskfold.nomad.views.allocation import *
from taskfold.nomad.views.base import WireView as WireView
from taskfold.nomad.views.decode import *
from taskfold.nomad.views.job import *
from taskfold.nomad.views.resources import *
from taskfold.nomad.views.services import *
from taskfold.nomad.views.status import *
