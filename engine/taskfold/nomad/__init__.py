"""All that knows the JSON of Nomad: what it says is read, imported and written here.

`Snapshot` is an allocation as Nomad's API has it; `Importer` turns an `Observation` (`observation_from_json` makes one)
into records; `canonical_job` is the job that a Nomad stores of one that people write; `views` has a type for each part
of an allocation, which `view` reads.

Inside are `fields`, `task_states` and `events` (the JSON of each part, in every dialect), `messages` (what Nomad tells
people of an event), `groups` (a group of tasks as decisions see it), `jobs`, `importing` and `views`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from taskfold.model.lazy import lazy_names

if TYPE_CHECKING:
    from taskfold.nomad import views
    from taskfold.nomad.importing.importer import Importer, JobConflict
    from taskfold.nomad.importing.observation import Mismatch, Observation, mismatches, observation_from_json
    from taskfold.nomad.jobs.canonical import canonical_job
    from taskfold.nomad.messages import details, display_message
    from taskfold.nomad.snapshot import Snapshot
    from taskfold.nomad.views.decode import optional_view, unknown_keys, view

_HOME = {
    "Importer": "importing.importer",
    "JobConflict": "importing.importer",
    "Mismatch": "importing.observation",
    "Observation": "importing.observation",
    "Snapshot": "snapshot",
    "canonical_job": "jobs.canonical",
    "details": "messages",
    "display_message": "messages",
    "mismatches": "importing.observation",
    "observation_from_json": "importing.observation",
    "optional_view": "views.decode",
    "unknown_keys": "views.decode",
    "view": "views.decode",
    "views": "views",
}

__all__ = [
    "Importer",
    "JobConflict",
    "Mismatch",
    "Observation",
    "Snapshot",
    "canonical_job",
    "details",
    "display_message",
    "mismatches",
    "observation_from_json",
    "optional_view",
    "unknown_keys",
    "view",
    "views",
]

__getattr__, __dir__ = lazy_names(__name__, _HOME)
