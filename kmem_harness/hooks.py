"""Call the hooks of ``hookspecs.py``, and name the plugin that fails. Knows no containers."""

from __future__ import annotations

import functools
import importlib
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pluggy

from kmem_harness import hookspecs
from kmem_harness.core.errors import KmemHarnessError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["OWN", "Hooks", "PluginError"]

#: The names of our own plugins begin so: what they raise is said as it is.
OWN = "kmem_harness."


class PluginError(KmemHarnessError):
    """A plugin raised in one of our hooks; ``plugin`` and ``hook`` name them."""

    def __init__(self, message: str, *, plugin: str, hook: str) -> None:
        super().__init__(message)
        self.plugin = plugin
        self.hook = hook


class Hooks:
    """The plugins of one harness."""

    def __init__(self, plugins: Iterable[object | str] = ()) -> None:
        """Register what is installed, then *plugins*: objects, or names of modules.

        Raises: PluginError for a plugin that cannot be had.
        """
        self.manager = pluggy.PluginManager(hookspecs.PROJECT)
        self.manager.add_hookspecs(hookspecs)
        for name, plugin in _installed():
            self.register(plugin, name)
        for plugin in plugins:
            if isinstance(plugin, str):
                self.register(_load(plugin, functools.partial(importlib.import_module, plugin)))
            else:
                self.register(plugin)

    def register(self, plugin: object, name: str | None = None) -> None:
        """Add a plugin; its hooks are called before those of the plugins there are.

        Raises: PluginError for one whose functions do not fit the hooks.
        """
        found = name or str(getattr(plugin, "__name__", type(plugin).__name__))
        if name is None and self.manager.has_plugin(found):
            found = f"{found}-{len(self.manager.get_plugins())}"  # two of one class are two plugins
        try:
            self.manager.register(plugin, found)
            self.manager.check_pending()
        except (ValueError, pluggy.PluginValidationError) as error:
            message = f"plugin {found!r} cannot be used: {error}"
            raise PluginError(message, plugin=found, hook="") from error

    def wants(self, hook: str) -> bool:
        """Say whether any plugin implements *hook*."""
        return bool(getattr(self.manager.hook, hook).get_hookimpls())

    def fault_rules(self) -> dict[str, str]:
        """Give the fault rules that plugins offer, by name; the plugin called first wins."""
        named: dict[str, str] = {}
        for offered in reversed(self.call("kmem_fault_rules")):
            named.update(offered)
        return named

    def call(self, hook: str, **arguments: Any) -> Any:
        """Call one hook. Raises: PluginError naming who failed; what our own plugins raise, as it is."""
        caller = getattr(self.manager.hook, hook)
        implementations = caller.get_hookimpls()
        if not implementations:
            return None if caller.spec.opts.get("firstresult") else []
        try:
            return caller(**arguments)
        except Exception as error:
            plugin = _who_raised(error, implementations)
            if plugin.startswith(OWN):
                raise
            message = f"plugin {plugin!r} failed in {hook}: {type(error).__name__}: {error}"
            raise PluginError(message, plugin=plugin, hook=hook) from error


@functools.cache
def _installed() -> tuple[tuple[str, object], ...]:
    """Load the installed plugins, once for the whole process."""
    if not _any_may_be_installed():
        return ()
    from importlib import metadata  # noqa: PLC0415 - a tenth of what a start imports

    found = metadata.entry_points(group=hookspecs.PROJECT)
    return tuple((point.name, _load(point.name, point.load)) for point in found)


def _any_may_be_installed() -> bool:
    """Say whether any distribution on the path names our entry points, or lies in an archive."""
    section = f"[{hookspecs.PROJECT}]".encode()
    for directory in (one or "." for one in sys.path):
        try:
            names = os.listdir(directory)
        except NotADirectoryError:
            return True
        except OSError:
            continue  # it need not exist
        if any(name.endswith(".egg") for name in names):
            return True
        for name in names:
            if name.endswith("-info"):
                with suppress(OSError), open(f"{directory}/{name}/entry_points.txt", "rb") as about:
                    if section in about.read():
                        return True
    return False


def _load(name: str, load: Any) -> object:
    try:
        return load()
    except Exception as error:
        message = f"plugin {name!r} cannot be loaded: {type(error).__name__}: {error}"
        raise PluginError(message, plugin=name, hook="") from error


def _who_raised(error: Exception, implementations: list[pluggy.HookImpl]) -> str:
    """Find the plugin on the way from our call to where *error* was raised."""
    codes = {getattr(one.function, "__code__", None): one.plugin_name for one in implementations}
    codes.pop(None, None)
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code in codes:
            return codes[trace.tb_frame.f_code]
        trace = trace.tb_next
    return ", ".join(one.plugin_name for one in implementations)
