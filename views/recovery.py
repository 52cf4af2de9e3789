"""Resuming a group from its checkpoint (SEMANTICS 19).

The checkpoint lies at or before the cuts that the views published last. From it the graph steps to
exactly these cuts (a blocked view's lies before the others'), in silence: what a view published is
in its topic already, what it held back is held back again. This is refused, and the state built
anew, when the plan or a topic is another one, when a view's frontier lies behind the checkpoint, or
when compaction has meanwhile taken a record that one of these cuts needs.
"""

from __future__ import annotations

from cdc.cuts import undisturbed
from cdc.frontiers import Frontier
from cdc.log.api import Reader
from views.checkpoint import Checkpoints, Stand
from views.operators.graph import Graph
from views.operators.output import ViewOutput
from views.publishing import Publisher


def resume(
    checkpoints: Checkpoints, graph: Graph, publisher: Publisher, reader: Reader
) -> Stand | None:
    """Bring the graph to the newest published cut; None: it cannot be, and is spoiled."""
    stand = checkpoints.load(graph)
    published = publisher.published
    if stand is None or not _belongs(stand, graph, published, reader):
        return None
    cuts = [Stand.from_json(f.resume) for f in published.values() if f is not None]
    cuts = sorted((cut for cut in cuts if cut.covers(stand)), key=_age)
    if not cuts:
        return None
    for cut in cuts:
        if not cut.covers(stand):
            return None
        if cut.offsets != stand.offsets and not _step(stand, cut, graph, published, reader):
            return None
        stand = cut
    return stand


def _age(cut: Stand) -> tuple[int, int]:
    return cut.records, sum(cut.reached_us.values())


def _belongs(
    stand: Stand, graph: Graph, published: dict[str, Frontier | None], reader: Reader
) -> bool:
    """Whether checkpoint, topics and frontiers are of one history."""
    topics = set(reader.topics())
    if any(t not in topics or reader.generation(t) != g for t, g in stand.generations.items()):
        return False
    return all(
        f is None or f.fingerprint == graph.outputs[name].plan.fingerprint
        for name, f in published.items()
    )


def _step(
    stand: Stand,
    cut: Stand,
    graph: Graph,
    published: dict[str, Frontier | None],
    reader: Reader,
) -> bool:
    """One silent step; whether the cut could still be read exactly."""
    deltas = {}
    for topic, table in graph.inputs.items():
        ranges = zip(stand.offsets[topic], cut.offsets[topic], strict=True)
        batches = [
            batch.changes
            for partition, (start, end) in enumerate(ranges)
            if start < end
            for batch in reader.read(topic, partition, start, end)
        ]
        source = topic.partition(".")[0]
        if not undisturbed(reader, source, topic, cut.reached_us[source]):
            return False
        if batches and reader.horizon(topic).tombstones_us > stand.reached_us[source]:
            return False
        deltas[topic] = table.stage(batches)
    slots = graph.run(deltas)
    for name, output in graph.outputs.items():
        output.step(slots, hold=True)
        if _published_at(published[name], cut, output):
            output.forget_unpublished()
    graph.commit()
    return True


def _published_at(frontier: Frontier | None, cut: Stand, output: ViewOutput) -> bool:
    """Whether the view's topic reflects this cut."""
    return frontier is not None and Stand.from_json(frontier.resume).offsets == cut.offsets
