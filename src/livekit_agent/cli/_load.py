"""What ``run MODULE:NAME`` and ``dev FILE`` load, and how it becomes a worker.

Three things can be named: (a) a handler, or a handler class, from which a worker is built with the configuration;
(b) a callable that takes the :class:`Config` and returns a worker; (c) for ``run`` only, a finished worker.
``dev`` looks for ``handler``, then ``make_worker``, then the one thing in the file that could be meant.

A flag that could not take effect is an error: a finished worker has its options already.
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Mapping
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from types import ModuleType
from typing import Any

import click

from .._errors import AgentError
from .._options import WorkerOptions
from ..config import Config
from ..runtime._worker import UniversalWorker
from ._exit import UserCodeError
from ._options import flags_given, with_flags

__all__ = ["build_worker", "load_file", "load_target", "pick"]

_METHODS = ("on_job_request", "on_job_assigned", "on_job_terminated")


def load_target(target: str) -> tuple[object, ModuleType]:
    """The object that ``MODULE:NAME`` names, and its module.  The current directory comes first on the path."""
    module_name, colon, name = target.partition(":")
    if not (module_name and colon and name):
        raise click.UsageError(
            f"{target!r} is not MODULE:NAME, such as agent:handler; for a file, use `livekit-agent dev`"
        )
    if module_name.endswith(".py"):
        dotted = module_name.removesuffix(".py").replace(os.sep, ".").lstrip(".")
        raise click.UsageError(f"{target!r} names a file; a module has dots and no .py: {dotted}:{name}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    module = _run_user_code(module_name, lambda: import_module(module_name))
    value: Any = module
    for part in name.split("."):
        if not hasattr(value, part):
            raise UserCodeError(f"{module_name} has no {name!r}", hint=_choices(module))
        value = getattr(value, part)
    return value, module


def load_file(path: str) -> ModuleType:
    """The module that a file holds, under the file's own name, with its directory on the path as if it were run."""
    name = os.path.splitext(os.path.basename(path))[0]
    spec = spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise click.UsageError(f"{path!r} is no Python file")
    directory = os.path.dirname(os.path.abspath(path))
    if directory not in sys.path:
        sys.path.insert(0, directory)
    module = module_from_spec(spec)
    # Before it runs: dataclasses and pickling look a class's module up by name.
    sys.modules[name] = module
    _run_user_code(path, lambda: spec.loader.exec_module(module))  # type: ignore[union-attr]
    return module


def pick(module: ModuleType) -> object:
    """What ``dev`` takes from a file."""
    for name in ("handler", "make_worker"):
        if hasattr(module, name):
            return getattr(module, name)
    found = candidates(module)
    if len(found) == 1:
        return found[next(iter(found))]
    what = "no handler in it" if not found else f"several that could be meant: {', '.join(found)}"
    functions = [name for name, value in vars(module).items() if _is_coroutine_function_of(module, value)]
    if not found and functions:
        # As in a file for livekit-agents.
        job = "entrypoint" if "entrypoint" in functions else functions[0]
        what += f"; handler = SimpleUniversalHandler(job_assigned={job}) makes one of {job}"
        raise click.UsageError(f"{module.__name__}: {what}")
    raise click.UsageError(f"{module.__name__}: {what}; name one `handler`, or define make_worker(config)")


def _is_coroutine_function_of(module: ModuleType, value: object) -> bool:
    return inspect.iscoroutinefunction(value) and value.__module__ == module.__name__


def candidates(module: ModuleType) -> dict[str, object]:
    """The handlers that a module defines: instances, and classes of its own of which it holds no instance."""
    public = {name: value for name, value in vars(module).items() if not name.startswith("_")}
    instances = {name: value for name, value in public.items() if is_handler(value) and not isinstance(value, type)}
    made: list[type] = [type(value) for value in instances.values()]
    classes = {
        name: value
        for name, value in public.items()
        if isinstance(value, type) and is_handler(value) and value.__module__ == module.__name__ and value not in made
    }
    return {**instances, **classes}


def is_handler(value: object) -> bool:
    """Whether ``value``, an instance or a class, has the three methods of a UniversalHandler."""
    return all(callable(getattr(value, method, None)) for method in _METHODS)


def build_worker(
    named: object, module: ModuleType, config: Config, flags: Mapping[str, Any], *, drain: float | None = None
) -> UniversalWorker:
    """The worker that ``named`` stands for.  Raises a usage error, a UserCodeError, or the configuration's faults.

    ``drain`` is ``dev``'s: the default for --shutdown-timeout, and no finished workers.
    """
    if isinstance(named, UniversalWorker):
        return _finished(named, flags, allowed=drain is None)
    if is_handler(named):
        config.validate()
        handler: Any = _run_user_code(named.__name__, named) if isinstance(named, type) else named
        options = with_flags(config.options(_module_options(module)), {"shutdown_timeout": drain, **_given(flags)})
        return UniversalWorker(config.url, config.api_key, config.api_secret, handler, options, rooms=config.rooms)
    if not callable(named) or isinstance(named, type):
        raise UserCodeError(
            f"{type(named).__name__} is neither a handler nor a callable that makes a worker",
            hint="name a handler with on_job_request, on_job_assigned and on_job_terminated (derive from BaseHandler), "
            "or a function (config) -> UniversalWorker",
        )
    if inspect.iscoroutinefunction(named):
        raise UserCodeError(
            f"{named.__name__} is an async function, neither a handler nor what makes a worker",
            hint=f"handler = SimpleUniversalHandler(job_assigned={named.__name__}) makes a handler of what a job does",
        )
    _refuse(flags_given(flags, options_only=True), "the function that makes the worker decides this")
    config.validate()
    name = getattr(named, "__name__", "the callable")
    worker = _run_user_code(name, lambda: named(config))
    if inspect.iscoroutine(worker):
        worker.close()
    if not isinstance(worker, UniversalWorker):
        raise UserCodeError(
            f"{name} returned {type(worker).__name__}, not a UniversalWorker",
            hint="end it with: return UniversalWorker.from_config(config, handler)",
        )
    return worker


def _given(flags: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in flags.items() if value is not None}


def _finished(worker: UniversalWorker, flags: Mapping[str, Any], *, allowed: bool) -> UniversalWorker:
    if not allowed:
        raise click.UsageError(
            "the file names a finished UniversalWorker, which cannot be pointed at the embedded server; "
            "name the handler, or a function (config) -> UniversalWorker"
        )
    _refuse(flags_given(flags), "the module built the worker itself")
    return worker


def _refuse(given: list[str], reason: str) -> None:
    if given:
        raise click.UsageError(f"{', '.join(given)}: no effect here, {reason}")


def _module_options(module: ModuleType) -> WorkerOptions | None:
    options = getattr(module, "options", None)
    if options is not None and not isinstance(options, WorkerOptions):
        raise UserCodeError(
            f"{module.__name__}.options is {type(options).__name__}, not WorkerOptions",
            hint="write options = WorkerOptions(max_jobs=3), or call it something else",
        )
    return options


def _choices(module: ModuleType) -> str:
    found = list(candidates(module))
    return f"it has {', '.join(found)}" if found else "it defines no handler"


def _run_user_code(what: str, call: Any) -> Any:
    try:
        return call()
    except AgentError:
        raise
    except ModuleNotFoundError as error:
        raise UserCodeError(
            f"cannot load {what}: no module named {error.name!r}{_where(error)}",
            hint="is it installed here, and is this the right directory?",
        ) from error
    except Exception as error:  # boundary: the user's own code; its error becomes one line
        raise UserCodeError(
            f"cannot load {what}: {type(error).__name__}: {error}{_where(error)}",
            hint="run the file with python to see the whole traceback",
        ) from error


def _where(error: BaseException) -> str:
    """The innermost place in the user's code that the error passed: `` (agent.py, line 3)``."""
    import traceback

    if isinstance(error, SyntaxError):
        return ""  # its text says so already
    here = os.path.dirname(__file__)
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith((here, "<frozen"))]
    own = [f for f in frames if f"{os.sep}importlib{os.sep}" not in f.filename]
    return f" ({os.path.basename(own[-1].filename)}, line {own[-1].lineno})" if own else ""
