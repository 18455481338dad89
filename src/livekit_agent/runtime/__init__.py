"""The worker on AnyIO: sockets, tasks, scopes.  Decisions are the protocol core's.  Layer 4."""
