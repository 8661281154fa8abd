"""Names of clusters that can be said and remembered."""

import secrets
from collections.abc import Callable, Collection

_FIRST = (
    "amber brave bright calm clear clever cosy crisp eager early fair fond gentle "
    "glad golden green keen kind lively lucky mellow merry misty noble patient plain "
    "proud quick quiet rapid silver steady sunny swift tidy warm wise young"
).split()
_SECOND = (
    "badger beaver bison crane curlew deer dove falcon finch fox gecko gull hare "
    "heron ibis jay kestrel lark lynx marten mole newt otter owl panda pike plover "
    "puffin raven robin seal shrew sparrow stork swan tern trout vole wren yak"
).split()


def free_name(
    taken: Collection[str], *, choose: Callable[[list[str]], str] = secrets.choice
) -> str:
    """Return a name of two words that is not among `taken`.

    >>> free_name({"amber-badger"}, choose=lambda words: words[0])[:13]
    'amber-badger-'
    """
    name = ""
    for _ in range(20):
        name = f"{choose(_FIRST)}-{choose(_SECOND)}"
        if name not in taken:
            return name
    return f"{name}-{secrets.token_hex(2)}"
