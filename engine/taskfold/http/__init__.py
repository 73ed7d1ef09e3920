"""The HTTP face: Nomad's allocation endpoints, and some of our own, as an ASGI application and a server (`[http]`)."""
