"""The conformance cases of the agent-worker protocol, played against any worker, in any language.

The suite starts a command, with ``LIVEKIT_URL``, ``LIVEKIT_API_KEY`` and ``LIVEKIT_API_SECRET`` in its environment,
pointing to a scripted server on loopback.  The worker under test serves rooms under no agent name, takes any number of
jobs, drains for five to ten seconds on SIGTERM, joins no room unless its framework does (then a room that exists
nowhere must do), and obeys its jobs' metadata, JSON::

    {"do": "return|raise|hang|sleep|ignore-cancel|reject|reject-terminate|exit", "seconds": 1.5}

``reject`` and ``reject-terminate`` are done to the offer, all others in the job; with ``"at": "offer"`` they are done
while the offer waits for its answer.  ``adapters/`` holds such workers, a page each.

::

    python -m livekit_agent.testing.contracts -- python my_worker.py

Each case is a row of :data:`CASES`; what can be judged from outside is run, the others say why they are not.
"""

from ._run import CASES as CASES
from ._run import contract_test as contract_test
from ._run import run_contracts as run_contracts
from ._verdicts import Case as Case
from ._verdicts import Result as Result
from ._verdicts import Verdict as Verdict

__all__ = ["CASES", "Case", "Result", "Verdict", "contract_test", "run_contracts"]
