"""Autobahn|Testsuite, the outside judge of our WebSocket: see ``run.py``."""
