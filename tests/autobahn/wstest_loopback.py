"""For Python 2.7: Autobahn's ``wstest`` as published, listening on loopback only.

Left to itself it binds every interface, whatever host its configuration names.
"""

import sys

import autobahn.twisted.websocket as websocket

_listen = websocket.listenWS


def _listen_on_loopback(factory, context=None, backlog=50, interface=""):
    return _listen(factory, context, backlog, "127.0.0.1")


websocket.listenWS = _listen_on_loopback

from autobahntestsuite import fuzzing, wstest  # noqa: E402 - after the patch

fuzzing.listenWS = _listen_on_loopback

if __name__ == "__main__":
    sys.exit(wstest.run())
