"""Configuration: what the environment says, as one checked value.

The library never reads the environment by itself; this package does, and only when asked
(:func:`load_config_from_env`, :meth:`Config.from_env`, the ``get_env`` family).  It is the one home of ``os.environ``
and never changes it.

Reading and judging are two steps, because flags may come between them.  :meth:`Config.from_env` refuses text that has
no meaning (``LIVEKIT_MAX_CONCURRENT_JOBS=many``); :func:`validate_config` judges the whole (no URL, key and secret
swapped).  Both collect every fault and raise them together as an ``ExceptionGroup`` of :class:`ConfigError`, so that a
deployment is repaired in one round.  Each value remembers where it came from: ``config.provenance["url"]``.

A secret may come from a mounted file: ``LIVEKIT_API_SECRET_FILE=/run/secrets/livekit``.  No secret is ever part of a
repr, a message or a hint; an API key is shown only when it looks like one, because a swapped pair would put the secret
there.

Files: ``_config`` is the value, ``_settings`` the variables, ``_texts`` what their texts mean, ``_faults`` the verdict.

Layer 5.
"""

from ._config import Config as Config
from ._config import default_text as default_text
from ._config import load_config_from_env as load_config_from_env
from ._config import validate_config as validate_config
from ._settings import SETTINGS as SETTINGS
from ._settings import Setting as Setting
from ._settings import get_env as get_env
from ._settings import get_env_bool as get_env_bool
from ._settings import get_env_duration as get_env_duration
from ._settings import get_env_int as get_env_int
from ._texts import parse_duration as parse_duration
