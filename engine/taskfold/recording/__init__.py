"""Recording: a Nomad is followed over its HTTP API, and what happens to its allocations is written to a log.

* `settings`: which agents, with which token and certificates, as Nomad's own command reads them from the environment;
* `connections`: requests to one agent;
* `agents`: asks the agents of one region, the next one where one fails;
* `recorder`: compares lists, reads bodies, follows the stream, and says how far it is.

`Recorder` and `AgentSettings` are public by the names in `taskfold`.
"""
