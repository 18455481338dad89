"""The promises (docs/simulation.md), as checkers of a trace: which there are.

Wire W1 to W11, connection W12 to W20, jobs J1 to J12, structure S1 to S9, time T1 to T5, media in rooms R1 to R4; a
file each.  To add one: a class there, a line in its tuple, and a trace that makes it fire in
tests/simulation/test_checkers.py.

Pure: layer 2.
"""

from __future__ import annotations

from ._checkers_connection import CONNECTION
from ._checkers_jobs import JOBS
from ._checkers_rooms import ROOMS
from ._checkers_structure import STRUCTURE
from ._checkers_time import TIME
from ._checkers_wire import WIRE
from ._judge import Checker, Jury, Violation

__all__ = ["CHECKERS", "Checker", "Jury", "Violation"]

CHECKERS: tuple[type[Checker], ...] = (*WIRE, *CONNECTION, *JOBS, *STRUCTURE, *TIME, *ROOMS)
