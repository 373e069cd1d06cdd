"""A user's own code that a config names as ``module:attribute``: a judge, a reward, an objective, a condition.

What depends on it depends on :attr:`UserObject.source_hash`, so that a run starts over when the file has changed.
Modules that the file imports are not part of that hash.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

T = TypeVar("T")

_loaded: dict[str, str] = {}
"""Hash of the source of each module when it was imported: an edited file is imported again."""


class UserCodeError(ValueError):
    """Code of the user's that cannot be found, called or finished; the message names config key, file and line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UserObject:
    """What ``module:attribute`` names."""

    object: Callable[..., Any]
    source_hash: str
    """Of the file of the module, and of the file that defines the object, where that is another one."""
    file: str
    line: int
    """Where the object is defined."""
    key: str
    """The line of the config, for messages: ``judges.mine.path = "my_judges:Fresh"``."""

    def error(self, reason: str) -> UserCodeError:
        """Return the error that names the config key, the place of the object and what is wrong with it."""
        return UserCodeError(f"{self.key}: {self.file}:{self.line}: {reason}")

    def takes(self, *names: str, **options: Any) -> None:
        """Check that the object can be called with positional arguments, which ``names`` describe, and ``options``."""
        self.check_signature(self.object, *names, **options)

    def check_signature(self, function: Callable[..., Any], *names: str, **options: Any) -> None:
        """Check that ``function``, the object or a method of what it made, can be called like that.

        Raises:
            UserCodeError: with the expected and the found signature.
        """
        name = getattr(function, "__qualname__", str(function))
        expected = ", ".join([*names, *(f"{key}={value!r}" for key, value in options.items())])
        try:
            signature = inspect.signature(function)
        except ValueError:
            return  # written in C: it cannot be known
        try:
            signature.bind(*names, **options)
        except TypeError as error:
            raise self.error(
                f"{name} is called as {name}({expected}), but its signature is {name}{signature}: {error}"
            ) from None


def load(path: str, section: str) -> UserObject:
    """Import ``module:attribute``; modules of the current directory can be imported.

    ``section`` is the config key that holds the path, for messages: ``judges.mine.path``.

    Raises:
        UserCodeError: if there is no such module or attribute, if the module cannot be imported, or if the attribute
            cannot be called.
    """
    key = f'{section} = "{path}"'
    name, _, attribute = path.partition(":")
    if not attribute.isidentifier() or not all(part.isidentifier() for part in name.split(".")):
        raise UserCodeError(f'{key}: expected "module:name", such as "my_judges:Fresh" for class Fresh in my_judges.py')
    module = _import(name, key)
    file = inspect.getsourcefile(module) if module.__spec__ and module.__spec__.has_location else None
    if file is None:
        raise UserCodeError(f"{key}: module {name} has no Python source file, so its changes cannot be noticed")
    if attribute not in vars(module):
        public = ", ".join(sorted(other for other in vars(module) if not other.startswith("_"))) or "nothing"
        raise UserCodeError(f"{key}: {file} has no {attribute}. Its public names: {public}")
    value = vars(module)[attribute]
    if not callable(value):
        raise UserCodeError(f"{key}: {attribute} in {file} is {value!r}, not a class or a function")
    try:
        where, line = inspect.getsourcefile(value) or file, inspect.getsourcelines(value)[1]
    except (TypeError, OSError):  # an instance, or code without lines: the file of its module must do
        where, line = file, 1
    sources = [Path(source).read_bytes() for source in dict.fromkeys([file, where])]
    digest = hashlib.sha256(b"\0".join(sources)).hexdigest()[:16]
    return UserObject(object=value, source_hash=digest, file=where, line=line, key=key)


def call(user: UserObject, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """Return ``function(*arguments, **options)``: the loaded object, or a method of what it made.

    Raises:
        UserCodeError: for an exception that passed through the user's file, with file and line of its innermost frame
            there.  What was raised elsewhere comes through as it is.
    """
    try:
        return function(*arguments, **options)
    except Exception as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == user.file]
        if isinstance(error, UserCodeError) or not frames:
            raise
        raise UserCodeError(f"{user.key}: {_at(frames[-1])}: {type(error).__name__}: {error}") from error


def _import(name: str, key: str) -> ModuleType:
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # last, so that no file there hides an installed package
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(name)
        file = getattr(module, "__file__", None)
        source = hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""
        if _loaded.setdefault(name, source) != source:
            module = importlib.reload(module)
            _loaded[name] = source
        return module
    except ModuleNotFoundError as error:
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise _import_error(name, key, error) from error
        raise UserCodeError(
            f"{key}: there is no module {error.name} in {os.getcwd()} or among the installed packages"
        ) from None
    except Exception as error:  # a module runs any code when it is imported
        raise _import_error(name, key, error) from error


def _import_error(name: str, key: str, error: Exception) -> UserCodeError:
    if isinstance(error, SyntaxError):
        return UserCodeError(f"{key}: {error.filename}:{error.lineno}: SyntaxError: {error.msg}")
    outer = [
        f for f in traceback.extract_tb(error.__traceback__) if f.filename != __file__ and "importlib" not in f.filename
    ]
    place = f"{_at(outer[0])}: " if outer else ""
    return UserCodeError(f"{key}: {place}importing {name} failed: {type(error).__name__}: {error}")


def _at(frame: traceback.FrameSummary) -> str:
    return f"{frame.filename}:{frame.lineno} in {frame.name}"
