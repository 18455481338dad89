"""Workers under test, a file each, for this package, livekit-agents and @livekit/agents.

What a job's metadata asks is obeyed in about twenty lines, a branch for each word of it.  The others, thirty to fifty,
are the framework's: imports, the answer to an offer, and options that keep out of it what is not judged, such as load,
room, port and health check.
"""
