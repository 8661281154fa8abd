"""Both faces of a cluster have the same verbs."""

import inspect

import mpreg_nb as mp

# Of the process that started the nodes, and of code that blocks.
ONLY_BLOCKING = {
    *("add", "remove", "grow", "kill", "pause", "partition", "down", "disconnect"),
    *("name", "own_nodes", "waiting", "executor", "function", "follow_logs"),
}


def public_names(cls: type) -> set[str]:
    return {name for name in dir(cls) if not name.startswith("_")}


def parameters(cls: type, name: str) -> list[tuple[str, object, object]]:
    member = inspect.getattr_static(cls, name)
    if isinstance(member, property):
        return []
    found = inspect.signature(member).parameters.values()
    return [(each.name, each.kind, each.default) for each in found]


def test_the_async_cluster_has_each_verb_that_needs_no_nodes_of_its_own() -> None:
    missing = public_names(mp.Cluster) - public_names(mp.AsyncCluster)

    assert missing == ONLY_BLOCKING


def test_a_verb_takes_the_same_arguments_on_both_faces() -> None:
    both = public_names(mp.Cluster) & public_names(mp.AsyncCluster)

    differing = {
        name
        for name in both
        if parameters(mp.Cluster, name) != parameters(mp.AsyncCluster, name)
    }

    assert len(both) > 20
    assert differing == set()
