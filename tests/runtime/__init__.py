"""The runtime, told as dialogues with a scripted server."""
