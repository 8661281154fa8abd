"""Who is at the other end of a control link, whom to dial, what to close."""

from mpreg_nb.wire.gossip import NodeName

CROSSING_S = 5.0
"""Two dials of one pair that end within this time have crossed each other."""


def keeps_new_link(
    me: NodeName,
    peer: NodeName,
    *,
    new_dialled_here: bool,
    old_dialled_here: bool,
    old_age_s: float,
) -> bool:
    """Whether the newer of two control links between one pair is kept.

    Both ends come to the same answer. Dials that crossed: the one made by the
    smaller name stays. Otherwise the newer one stays, since whoever dialled it
    had given up the older.

    >>> keeps_new_link(
    ...     "a", "b", new_dialled_here=False, old_dialled_here=True, old_age_s=0.1
    ... )
    False
    >>> keeps_new_link(
    ...     "b", "a", new_dialled_here=True, old_dialled_here=False, old_age_s=0.1
    ... )
    False
    """
    if new_dialled_here == old_dialled_here or old_age_s > CROSSING_S:
        return True
    return new_dialled_here == (me < peer)
