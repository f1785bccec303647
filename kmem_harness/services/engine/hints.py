"""Say in a sentence what a person should know of a unit that did not serve. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kmem_harness.services.engine.states import Result, State

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kmem_harness.services.engine.service import Service

__all__ = ["hint_for"]


def hint_for(service: Service, refusals: Mapping[str, Any]) -> str:
    """Give the sentence, or nothing for a service that runs, or did what it is for."""
    return "; ".join(filter(None, (_how_it_went(service), _refused(service, refusals))))


def _how_it_went(service: Service) -> str:
    if service.result is Result.START_LIMIT_HIT:
        how = _ending(service)
        return f"it was started {service.nr_starts} times and ended each time{how}: see its lines"
    settings = service.unit.service
    oneshot = settings is not None and settings.effective_type == "oneshot"
    if service.state is State.START and settings is not None:
        waits = "READY=1" if settings.effective_type.startswith("notify") else "its start to end"
        return f"it never came up: {waits} was waited for"
    over = service.state in (State.DEAD, State.FAILED) and service.ended_by_itself
    if not over or oneshot or service.lasted is None:
        return ""
    stays = ": a service stays" if service.result is Result.SUCCESS else ""
    return f"it ended by itself {service.lasted:.1f} s after its start{_ending(service)}{stays}"


def _ending(service: Service) -> str:
    ending = service.main_ending
    if ending is None:
        return ""
    return f" with signal {ending.signal}" if ending.signal else f" with exit code {ending.code}"


def _refused(service: Service, refusals: Mapping[str, Any]) -> str:
    """Say what was refused, where the service is not well."""
    if service.state.active == "active" or not refusals["by_setting"]:
        return ""
    if service.result is Result.SUCCESS and not service.ended_by_itself:
        return ""
    by = ", ".join(f"{count} by {key}" for key, count in refusals["by_setting"].items())
    first = refusals["first"]
    what = f", first {first['syscall']} ({first['errno']}) by {first['comm']}" if first else ""
    return f"calls were refused: {by}{what}"
