"""Tests of ``livekit_agent.protocol``: pure, synchronous, no loop and no clock."""
