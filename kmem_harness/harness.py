"""Join controller, runtimes and memcgs into sessions and boxes. The Python door to everything."""

from __future__ import annotations

import itertools
import os
import threading
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING, Any, cast

from kmem_harness.box import Box, RefusalCard, Session
from kmem_harness.controller.owner.client import Controller, ControllerDiedError
from kmem_harness.core.errors import ConfigurationError, UnsupportedHostError
from kmem_harness.core.releases import DEFAULT_PROFILE, check_profile_name
from kmem_harness.core.sizes import UNLIMITED
from kmem_harness.costs.kinds import check_kinds
from kmem_harness.costs.live import LiveKind, live_kinds, makers, only_kinds
from kmem_harness.costs.table import load_costs
from kmem_harness.handles import TRACK_ONLY, Counter, MemcgHandle, make_memcg, set_limits
from kmem_harness.hooks import Hooks, PluginError
from kmem_harness.logged import is_wanted, log, show_as_environment_asks
from kmem_harness.runtimes.local import LocalRuntime
from kmem_harness.runtimes.native import check_listener
from kmem_harness.runtimes.spec import BoxSpec

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from types import TracebackType

    from typing_extensions import Self

    from kmem_harness.runtimes.sidecar import SidecarController
    from kmem_harness.runtimes.spec import Runtime, RuntimeFactory

__all__ = ["Box", "Counter", "Harness", "MemcgHandle", "RefusalCard"]


#: Who has to see the end of a box's first process before it can end, as a helper at a pipe, may so long.
_GRACE_SECONDS = 0.5


class Harness:
    """A session: one controller, one memcg tree, any number of boxes.

    Leaving it as a context manager ends every box and the controller.
    """

    def __init__(
        self,
        kernel: str = DEFAULT_PROFILE,
        costs: str | None = None,
        isolation: str | None = None,
        plugins: Sequence[object | str] = (),
        docker_listener: str = "auto",
        controller: Controller | str | None = None,
    ) -> None:
        """Emulate *kernel*, with its own cost table or the one in the TOML file *costs*.

        Boxes are kept apart as well as the host allows, or as *isolation* ("user", "pid", "none")
        says.

        *plugins*, objects or names of modules, join those installed: see ``hookspecs.py``.

        *docker_listener* says who puts a Docker container under its filter: "shim", ours, which
        becomes its entrypoint; "native", the engine's runtime, which then covers every exec, too;
        "auto", the runtime where that has no drawback (see ``runtimes/native.py``).

        *controller* ``"docker://NAME"`` is that of the container NAME on the host of an engine that
        is elsewhere (see ``containers/README.md``); then there are no local boxes. A ``Controller``
        that was started for *kernel* becomes this session's.

        Raises: ConfigurationError, UnsupportedHostError, PluginError; nothing is left running then.
        """
        self.kernel = check_profile_name(kernel)
        self.docker_listener = check_listener(docker_listener)
        self._costs = load_costs(costs or kernel)
        if self._costs.kernel != kernel:
            raise ConfigurationError(
                f"cost table {costs!r} is for kernel {self._costs.kernel}, not {kernel}; "
                f"emulate {self._costs.kernel}, or give another table"
            )
        self.controller = _start_controller(kernel, controller)
        self._boxes: list[Box] = []
        self._lock = threading.RLock()
        self._numbers = itertools.count(1)
        self._closed = False
        try:
            self.hooks = Hooks(plugins)
            show_as_environment_asks()
            if is_wanted("info"):
                from kmem_harness.runtimes.logs import Log  # noqa: PLC0415 - only if anybody listens

                self.hooks.register(Log(), "kmem_harness.log")
            log("info", "controller.started", kernel=kernel)
            self._runtimes: dict[str, Runtime] = {}
            if not self.controller.remote:
                self._runtimes["local"] = LocalRuntime([self.controller.pidfd], isolation)
            self._told: threading.Thread | None = None
            self.controller.when_removed = lambda path, counters: self.hooks.call(
                "kmem_memcg_offline", path=path, counters=counters
            )
            self.controller.request("hello")
        except BaseException:
            self.controller.close()
            raise

    def __enter__(self) -> Self:
        """Give the harness itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End everything."""
        self.close()

    @property
    def isolation(self) -> str:
        """How local boxes are kept apart: "user", "pid" or "none"."""
        return self.runtime("local").isolation

    def memcg(
        self,
        path: str,
        kmem_limit: str | int | None = None,
        memory_limit: str | int | None = None,
    ) -> MemcgHandle:
        """Make (or find) the memcg *path*, with those above it. Sizes: ``"32M"``, bytes, "max"."""
        if not path.startswith("/"):
            message = f"memcg path {path!r} does not start with '/'; write '/{path}'"
            raise ConfigurationError(message)
        return make_memcg(self.controller, path, kmem_limit, memory_limit)

    def run(
        self,
        command: Sequence[str] | None = None,
        *,
        kmem_limit: str | int | None = None,
        memory_limit: str | int | None = None,
        memcg: MemcgHandle | str | None = None,
        mode: str = "enforce",
        kinds: Sequence[str] | None = None,
        runtime: str | None = None,
        image: str | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        stdin: Any = None,
        stdout: Any = None,
        stderr: Any = None,
        pids_max: int | None = None,
        events: int | None = None,
        events_all: bool = False,
        faults: Sequence[str] = (),
        look_at_end: bool = False,
        pass_fds: Sequence[int] = (),
        own_session: bool = True,
        **options: Any,
    ) -> Box:
        """Start *command* in a box of its own; give it once its limits bind it.

        Limits are of the box's memcg, which is made for it unless *memcg* names one. *mode*
        "observe" charges and refuses nothing. *kinds* names the kinds of objects that are charged,
        all by default. *pids_max* is a hard bound by the kernel itself, in tasks. *events* is a
        descriptor that every refusal is appended to as a JSON line, and with *events_all* every
        charge, too: see ``controller/recording.py``.

        *faults* are rules such as ``"socket:error=ENOMEM:when=3"``, see ``faults/rule.py``: they
        fail or delay calls of the whole box, with a limit or without. *look_at_end* has the
        report say what the first process held, and who else was alive, when it exited, and gives
        those half a second to end by themselves.

        A local box inherits *pass_fds* beside its streams. It has a session and a process group of
        its own, and so no terminal; without *own_session* it shares ours, as a child of ours would.

        *runtime* "docker", or an *image*, runs a container: *command* is optional then, its output
        stays with the engine unless *stdout* or *stderr* take it, and *options* are those of
        docker-py's ``containers.create``.

        Raises: ConfigurationError (CommandNotFoundError and CommandNotExecutableError among them),
        UnsupportedHostError, ShimError, PluginError, OSError from a control file; nothing is left
        running then.
        """
        where = self.runtime(runtime or ("local" if image is None else "docker"))
        spec = where.check(
            BoxSpec(
                name=self.new_name(),
                command=cast("tuple[str, ...]", command or ()),
                env=env,
                cwd=cwd,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                pids_max=pids_max,
                image=image,
                options=options,
                pass_fds=tuple(pass_fds),
                own_session=own_session,
                grace_seconds=_GRACE_SECONDS if look_at_end else 0.0,
            )
        )
        box = self.open_account(
            spec,
            where,
            kmem_limit=kmem_limit,
            memory_limit=memory_limit,
            memcg=memcg,
            mode=mode,
            kinds=kinds,
            events=events,
            events_all=events_all,
            faults=faults,
            look_at_end=look_at_end,
        )
        try:
            where.run(box)
        except BaseException:
            box.discard()
            raise
        return box

    def runtime(self, name: str) -> Runtime:
        """Give the runtime *name*, made when it is first asked for.

        Raises: ConfigurationError if nobody offers it; UnsupportedHostError.
        """
        with self._lock:
            if name not in self._runtimes:
                offered: dict[str, RuntimeFactory] = {"docker": _docker_runtime}
                for offer in reversed(self.hooks.call("kmem_runtimes", harness=self)):
                    offered.update(offer)
                if name not in offered:
                    if name == "local":
                        raise _no_local_boxes()
                    known = ", ".join(repr(one) for one in sorted({"local", *offered}))
                    raise ConfigurationError(f"runtime {name!r} is not known; known are {known}")
                self._runtimes[name] = offered[name](self)
            return self._runtimes[name]

    def add_runtime(self, name: str, runtime: Runtime) -> None:
        """Have a runtime that was made elsewhere closed with this harness."""
        with self._lock:
            self._runtimes[name] = runtime

    def boxes_below(self, path: str) -> list[Box]:
        """List the boxes of memcg *path* and those below it that are not closed, newest first."""
        with self._lock:
            return [
                box
                for box in reversed(self._boxes)
                if not box.closed and f"{box.memcg.path}/".startswith(f"{path.rstrip('/')}/")
            ]

    def new_name(self) -> str:
        """Choose the name of a box."""
        return f"{os.getpid():x}-{next(self._numbers)}-{os.urandom(2).hex()}"

    def open_account(
        self,
        spec: BoxSpec,
        runtime: Runtime,
        *,
        kmem_limit: str | int | None = None,
        memory_limit: str | int | None = None,
        memcg: MemcgHandle | str | None = None,
        below: str | None = None,
        mode: str = "enforce",
        kinds: Sequence[str] | None = None,
        events: int | None = None,
        events_all: bool = False,
        faults: Sequence[str] = (),
        look_at_end: bool = False,
    ) -> Box:
        """Open the account of a box that *runtime* is about to create; see :meth:`run`.

        A memcg of its own is made for it *below* the one of that path, if *memcg* names none.

        Raises: ConfigurationError, OSError; nothing is left of it then.
        """
        if mode not in ("enforce", "observe"):
            message = f"mode {mode!r} is not known; known are 'enforce' and 'observe'"
            raise ConfigurationError(message)
        priced = self._kinds(kinds)
        rules = self._rules(faults)
        own = memcg is None
        path = f"/{(below or runtime.name).strip('/')}/{spec.name}"
        with ExitStack() as undo:
            if own:
                undo.callback(self._remove_quietly, path)
            if isinstance(memcg, MemcgHandle):
                handle = memcg
                set_limits(handle, kmem_limit, memory_limit)
            else:
                handle = self.memcg(memcg or path, kmem_limit, memory_limit)
            if mode == "observe" and handle.kmem.limit == UNLIMITED:
                handle.write("memory.kmem.limit_in_bytes", TRACK_ONLY)
            armed = self.controller.request(
                "arm",
                () if events is None else (events,),
                box=spec.name,
                memcg=handle.path,
                observe=mode == "observe",
                isolation=runtime.isolation,
                lasting=runtime.lasting,
                kinds=priced,
                record=events_all,
                faults=rules,
                look_at_end=look_at_end,
            )
            undo.pop_all()
        session = Session(
            self.controller,
            self.kernel,
            runtime.name,
            runtime.isolation,
            self.hooks,
            lasting=runtime.lasting,
            fires_own_hooks=runtime.fires_own_hooks,
        )
        box = Box(session, spec, handle, armed, own_memcg=own)
        box.has_faults = bool(rules)
        with self._lock:
            self._boxes = [one for one in self._boxes if not one.closed]
            self._boxes.append(box)
            if self._told is None and self.hooks.wants("kmem_refused"):
                cards = self.controller.second_connection().watch("/")
                self._told = threading.Thread(
                    target=self._tell_plugins, args=(cards,), name="kmem-harness-refusals"
                )
                self._told.daemon = True
                self._told.start()
        return box

    def close(self) -> None:
        """End every box, then the controller; nothing of ours is left. May be called again.

        A process that was forked off ours, and leaves with us, ends nothing: none of it is his.
        """
        if self._closed or not self.controller.is_ours():
            return
        self._closed = True
        with ExitStack() as each:
            each.callback(self.controller.close)
            for runtime in self._runtimes.values():
                each.callback(runtime.close)
            for box in self._boxes:
                each.callback(box.close)

    def _tell_plugins(self, cards: Iterator[dict[str, Any]]) -> None:
        """Hand on each refusal, until the controller is gone."""
        for card in cards:
            box = next((one for one in self._boxes if one.name == card.get("box")), None)
            if box is not None and not box.closed:
                try:
                    self.hooks.call("kmem_refused", box=box, card=card)
                except PluginError as error:
                    box.fail(error)

    def _remove_quietly(self, memcg: str) -> None:
        with suppress(ControllerDiedError, OSError):  # it may never have been made
            self.controller.remove(memcg)

    def _kinds(self, chosen: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
        """Price each kind of object; what was not chosen costs nothing, and is not trapped."""
        priced = self._ask_prices(live_kinds(self._costs))
        offers = self.hooks.call("kmem_cost_kinds", kernel=self.kernel)
        added: dict[str, dict[str, Any]] = {}
        if offers:
            from kmem_harness.costs.added import added_kinds  # noqa: PLC0415 - plugins' alone

            added = added_kinds(offers, priced)
        if added and chosen is not None and not isinstance(chosen, str):
            ours = [name for name in chosen if name not in added]
            added = {name: kind for name, kind in added.items() if name in chosen}
            wanted = check_kinds(ours) if ours or not added else frozenset[str]()
        else:
            wanted = check_kinds(chosen)
        return {name: kind.request() for name, kind in only_kinds(priced, wanted).items()} | added

    def _rules(self, faults: Sequence[str]) -> list[str]:
        """Read fault rules, those among them that plugins have a name for. Raises: FaultRuleError."""
        if not faults:
            return []
        from kmem_harness.faults.rule import parse_rules  # noqa: PLC0415 - only if there are any

        return [rule.text for rule in parse_rules(faults, self.hooks.fault_rules())]

    def _ask_prices(self, kinds: dict[str, LiveKind]) -> dict[str, LiveKind]:
        """Let plugins change what the kinds of objects cost."""
        if not self.hooks.wants("kmem_price_syscall"):
            return kinds
        asked: dict[str, int] = {}
        for syscall, made in makers(kinds):
            nbytes = self.hooks.call(
                "kmem_price_syscall",
                syscall=syscall,
                kind=made,
                nbytes=kinds[made].nbytes,
                kernel=self.kernel,
            )
            if nbytes is None:
                continue
            if not isinstance(nbytes, int) or nbytes < 0:
                raise ConfigurationError(
                    f"a plugin prices {syscall} at {nbytes!r}; a price is whole bytes from 0 on"
                )
            asked[made] = max(nbytes, asked.get(made, 0))
        return {
            name: kind._replace(nbytes=asked.get(name, kind.nbytes)) for name, kind in kinds.items()
        }


def _start_controller(
    kernel: str, given: Controller | str | None
) -> Controller | SidecarController:
    if given is None:
        return Controller(kernel)
    if isinstance(given, Controller):
        return given
    from kmem_harness.runtimes.sidecar import SidecarController  # noqa: PLC0415 - heavy: only if used

    return SidecarController(kernel, given)


def _no_local_boxes() -> UnsupportedHostError:
    return UnsupportedHostError(
        "this harness has its controller elsewhere, which cannot hold boxes of this machine",
        missing="a controller on this machine",
        remedy="give an image, or leave the controller out",
    )


def _docker_runtime(harness: Harness) -> Runtime:
    from kmem_harness.runtimes.docker import DockerRuntime  # noqa: PLC0415 - heavy: only if used

    return DockerRuntime(harness)
