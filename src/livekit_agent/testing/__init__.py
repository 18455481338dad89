"""What users' own tests use: a pytest plugin that runs them in the simulation.  Layer 5.

The plugin (``_plugin.py``) is loaded by pytest in every project that has this package installed, so it and this module
import nothing of ours until a mark or a fixture is used.
"""
