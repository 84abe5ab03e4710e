"""The lanes of one node: opened when a worker is ready, connected again when they were cut, buried with it.

On the loop.
"""

from __future__ import annotations

import asyncio
import base64
from functools import partial
from typing import TYPE_CHECKING, Any

from skyward.engine.agentline import tries
from skyward.engine.lane import FrameCounter, Lane
from skyward.errors import ConnectError, HostKeyError
from skyward.link import frames
from skyward.link.agentconfig import AgentConfig, worker_socket
from skyward.link.frames import FrameError, Splitter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from skyward.engine.dispatch import Dispatcher
    from skyward.engine.node import Node
    from skyward.link.links import Link

LAST_WORDS = 1.0
"""Seconds in which what a worker that died had sent may still come."""


class Lanes:
    """See the module. ``spawn`` runs a coroutine that ends with the node; ``on_ready`` hears of a lane that
    takes tasks.
    """

    def __init__(
        self,
        node: Node,
        dispatcher: Dispatcher,
        spawn: Callable[[Any], None],
        on_ready: Callable[[Lane], None],
    ) -> None:
        self.link: Link | None = None
        self.config: AgentConfig | None = None
        self.inherits = False
        """Whether its workers had another client, which is gone."""
        self._node = node
        self._dispatcher = dispatcher
        self._spawn = spawn
        self._on_ready = on_ready
        self._lanes: dict[int, Lane] = {}
        self._attached: set[Lane] = set()
        self._heirs: set[Lane] = set()

    def __iter__(self) -> Iterator[Lane]:
        return iter(list(self._lanes.values()))

    @property
    def ready(self) -> list[Lane]:
        """Those whose process has answered, and said what it had."""
        return [lane for lane in self if lane.session is not None and lane.when_told is None]

    def open(self, index: int, generation: int) -> None:
        """A worker is ready: connect to it."""
        self._spawn(self._open(index, generation))

    async def _open(self, index: int, generation: int) -> None:
        previous = self._lanes.get(index)
        if previous is not None:
            if previous.generation >= generation:
                return
            self.bury(previous)
        lane = self._lanes[index] = self._new(index, generation)
        if self.inherits:
            lane.when_told = partial(self._told, lane)
        await self._connect(lane)

    def _new(self, index: int, generation: int) -> Lane:
        assert self.config is not None
        lane = Lane(self._node, index, generation, self.config.slots_per_process, self._dispatcher)
        lane.single_use = not self.config.reuse
        return lane

    async def _connect(self, lane: Lane) -> None:
        """Connect a lane, or connect it again. Gives the process up after the last delay."""
        assert self.link is not None
        async for _ in tries(self.link):
            if self._lanes.get(lane.index) is not lane:
                return
            counter = FrameCounter(lane)
            greeting: dict[str, Any] = {"session": lane.session, "received": lane.inbox.received}
            if lane.session is None and self.inherits:
                greeting["inherit"] = True
            try:
                wire, ready = await self.link.open(
                    worker_socket(lane.index),
                    greeting,
                    counter.on_frame,
                    partial(self._on_closed, lane),
                    counter.on_received,
                )
            except (OSError, FrameError, ConnectError, HostKeyError):
                continue
            if lane.session is not None and ready["session"] != lane.session:
                wire.close()  # another process listens there already: ours is dead
                continue
            first = lane.session is None
            lane.session = ready["session"]
            self._attached.add(lane)
            lane.attach(wire, ready["received"])
            if first and lane.when_told is None:
                self._on_ready(lane)
            return
        if lane.death is None:
            self._node.end_worker(lane, "it could not be reached any more")

    def _told(self, lane: Lane) -> None:
        """Its process has said what it had from the client before us."""
        lane.when_told = None
        self._heirs.add(lane)
        self._on_ready(lane)
        self.on_inherited_done(lane)

    def on_inherited_done(self, lane: Lane) -> None:
        """A task of the client before us may have been the last: then what it had sent is not needed."""
        if lane not in self._heirs or any(task.inherited for task in lane.unanswered.values()):
            return
        self._heirs.discard(lane)
        lane.drop_predecessors()
        if not self._heirs:
            self._node.drop_predecessors()

    def _on_closed(self, lane: Lane) -> None:
        """Its process ended, and the agent is about to say so; or only the connection did."""
        if lane not in self._attached:
            return
        self._attached.discard(lane)
        lane.detach()
        if self._lanes.get(lane.index) is not lane or self._node.status in ("lost", "ended"):
            return
        if lane.death is not None or (lane.single_use and not lane.unanswered):
            self.bury(lane)
        else:
            self._spawn(self._connect(lane))

    def on_death(self, message: dict[str, Any]) -> None:
        """The agent says that a worker died."""
        lane = self._lanes.get(message["index"])
        if lane is None or lane.generation != message["generation"]:
            return
        lane.death = (message["kind"], message["cause"])
        if lane not in self._attached:
            self.bury(lane)
        else:  # its last frames may still be in the socket; they end with the connection
            asyncio.get_running_loop().call_later(LAST_WORDS, self.bury, lane)

    def on_late(self, message: dict[str, Any]) -> None:
        """The agent has what a process for one task answered that could not wait for its client."""
        index, generation, task = message["index"], message["generation"], message["task"]
        lane = self._lanes.get(index)
        if lane is None or lane.generation != generation:
            lane = self._new(index, generation)  # the process has ended, but its answer speaks for it
        if task not in lane.unanswered:
            if not self.inherits:
                return
            tasks = [[task, message["name"], "done"]]
            self._dispatcher.on_heritage(lane, {"tasks": tasks, "classes": message["classes"]})
        for data in message["frames"]:
            for kind, body in Splitter().feed(base64.b64decode(data)):
                lane.on_frame(kind, body)

    def bury(self, lane: Lane) -> None:
        """A lane's process is gone."""
        if self._lanes.get(lane.index) is lane:
            del self._lanes[lane.index]
            self._attached.discard(lane)
            self._heirs.discard(lane)
            kind, cause = lane.death or ("killed", "ended")
            self._dispatcher.on_lane_lost(lane, kind, cause)

    def bury_all(self, kind: str, cause: str) -> None:
        """The node is gone, or is to be."""
        for lane in self:
            lane.death = lane.death or (kind, cause)
            self.bury(lane)

    def tell(self, facts: dict[str, Any]) -> None:
        """Tell the workers where they stand; tasks sent later see it."""
        for lane in self:
            lane.write(frames.json_frame(frames.FACTS, facts))
            lane.flush()
