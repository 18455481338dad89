"""Measuring the process the worker runs in.  Layer 3."""
