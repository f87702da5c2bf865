"""What makes a function a good citizen of `datasets.map`."""

import functools
from collections.abc import Callable
from importlib import import_module
from typing import Any, Generic, ParamSpec, TypeVar

from . import __version__


P = ParamSpec("P")
R = TypeVar("R")


class Transform(Generic[P, R]):
    """
    A batched map function that `datasets` caches per version of this package.

    `datasets` fingerprints a map by pickling its function, and a plain function pickles as nothing but its name: an
    upgrade that changes what the function does would silently be served the old cache. This wrapper pickles as its
    name and the package version, and never as anything else, so that no model weights can end up in a fingerprint.
    """

    def __init__(self, function: Callable[P, R]):
        functools.update_wrapper(self, function)
        self._function = function

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        return self._function(*args, **kwargs)

    def __reduce__(self) -> tuple[Any, ...]:
        return _load, (self._function.__module__, self._function.__qualname__, __version__)

    def __repr__(self) -> str:
        return f"<transform {self._function.__module__}.{self._function.__qualname__}>"


def _load(module: str, name: str, version: str) -> Any:
    return getattr(import_module(module), name)
