"""LiveKit's agent-worker signalling protocol, without I/O.

This package makes no network call, reads no clock, draws no random number of consequence (wsproto masks frames) and
logs nothing.  Bytes and ``now`` go in; events, bytes and the next deadline come out.  It imports nothing of ours but
layer 1 and could be published on its own, as h11 is.  How to drive it: ``_connection.py``; what may happen when:
``_state.py``.
"""

from ._auth import Claims as Claims
from ._auth import TokenError as TokenError
from ._auth import agent_token as agent_token
from ._auth import decode_token as decode_token
from ._auth import mint_token as mint_token
from ._auth import verify_token as verify_token
from ._auth import worker_token as worker_token
from ._connection import SignalConnection as SignalConnection
from ._connection import Tracer as Tracer
from ._events import *  # noqa: F403 - the event classes are the vocabulary
from ._jobs import JobBook as JobBook
from ._jobs import JobRecord as JobRecord
from ._lifecycle import Backoff as Backoff
from ._lifecycle import GiveUp as GiveUp
from ._lifecycle import Lifecycle as Lifecycle
from ._lifecycle import Retry as Retry
from ._server_side import ServerConnection as ServerConnection
from ._state import CONVERSATION as CONVERSATION
from ._state import JOB as JOB
from ._state import SPEAKER as SPEAKER
from ._state import Input as Input
from ._state import JobStage as JobStage
from ._state import Kind as Kind
from ._state import Role as Role
from ._state import Stage as Stage
from ._worker_side import WorkerConnection as WorkerConnection
from ._worker_side import report_status as report_status
