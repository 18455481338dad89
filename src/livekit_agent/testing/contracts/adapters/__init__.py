"""Workers under test: twenty lines each, for this package, livekit-agents and @livekit/agents."""
