"""Statistics: numbers about all tensors of a merge while they are found - pools, parts, rounds - and once they are."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from mergec.graph import Node
from mergec.ops.pool import Part, Pool, Values, pool_of, value_at
from mergec.plan import Output, Plan, Statistic


class Statistics:
    """The statistics of a plan: what is known of them, and how the rest is found.

    `known` are values by name that an earlier run has found.
    """

    def __init__(self, plan: Plan, known: Mapping[str, Values]) -> None:
        self._plan, outputs = plan, plan.outputs
        self._values = dict(known)
        self._pools: dict[str, Pool] = {}
        self._lock = threading.Lock()
        self._feeding: dict[int, list[tuple[Statistic, Node]]] = {}
        for one in plan.statistics:
            for kind, node in one.nodes:
                self._feeding.setdefault(kind, []).append((one, plan.nodes[node]))
        orders = {members: _order(members, outputs) for members in {one.members for one in plan.statistics}}
        self._order = {one.name: orders[one.members] for one in plan.statistics}

    def known(self, output: Output) -> dict[int, Values]:
        """The values that are known so far of what an output needs, by `over_model` node."""
        return {
            node.index: value_at(node.inputs[0], self._values[one.name], self._order[one.name][output.tensor][0])
            for one, node in self._feeding.get(output.kind, ())
            if one.name in self._values
        }

    def sweeps(
        self, outputs: Sequence[Output], found: Callable[[str, Values], None] | None = None
    ) -> Iterator[tuple[int, list[Output]]]:
        """The sweeps that are left to make: the round, and the tensors to be fed to their `parts` before the next.

        Only what the given outputs need is found; `found` is told every value.
        """
        needed = self._needed({output.kind for output in outputs})
        for turn in sorted({one.round for one in needed}):
            due = [one for one in needed if one.round == turn and one.name not in self._values]
            self._pools = {one.name: pool_of(self._plan.nodes[one.nodes[0][1]].inputs[0]) for one in due}
            while self._pools:
                members = {number for one in due for number in one.members}
                yield turn, [self._plan.outputs[n] for n in sorted(members) if self._wanting(self._plan.outputs[n])]
                for name, pool in list(self._pools.items()):
                    values = pool.finish()
                    if values is not None:
                        self._values[name] = values
                        del self._pools[name]
                        if found:
                            found(name, values)
                due = [one for one in due if one.name in self._pools]

    @contextmanager
    def parts(self, output: Output) -> Iterator[dict[int, Part]]:
        """The parts that a tensor is to be fed to, by reduction; taken back at the end."""
        wanting = self._wanting(output)
        made = {node.index: pool.part(number) for pool, number, node in wanting}
        yield made
        with self._lock:
            for pool, number, node in wanting:
                pool.take(number, made[node.index])

    def _wanting(self, output: Output) -> list[tuple[Pool, int, Node]]:
        found: list[tuple[Pool, int, Node]] = []
        for one, node in self._feeding.get(output.kind, ()) if self._plan.kinds[output.kind].entries else ():
            number, member = self._order[one.name][output.tensor]
            pool = self._pools.get(one.name)
            if pool is not None and member == output.name and pool.wants(number):
                found.append((pool, number, node.inputs[0]))
        return found

    def _needed(self, kinds: set[int]) -> list[Statistic]:
        """The statistics that kinds need, and those that the tensors which feed them need before."""
        pending, needed = list(kinds), dict[str, Statistic]()
        while pending:
            for one, _ in self._feeding.get(pending.pop(), ()):
                if one.name not in needed:
                    needed[one.name] = one
                    pending += [kind for kind, _ in one.nodes]
        return list(needed.values())


def _order(members: Sequence[int], outputs: Sequence[Output]) -> dict[str, tuple[int, str]]:
    """Each tensor's number among those that feed a statistic, and the output that feeds it."""
    return {outputs[number].tensor: (position, outputs[number].name) for position, number in enumerate(members)}
