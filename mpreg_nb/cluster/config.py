"""The defaults of this process: `mp.config`, `%mpreg config`.

`CONFIG` holds the values. `KEYS` has the default, the bounds and the reason of each. A
process starts with what its environment says, such as `MPREG_NB_SLOTS=8`.
Code reads a value each time it needs it, so a change takes effect at once.
"""

import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

import msgspec

from mpreg_nb.boundary import public
from mpreg_nb.names import nearest
from mpreg_nb.shared_memory.segments import DEFAULT_LIMIT_MB, MEMORY, bytes_of
from mpreg_nb.working_folder import tell_if

if TYPE_CHECKING:
    import pandas as pd

    from mpreg_nb.view.tables import Table


Value: TypeAlias = bool | int | float | str


class Key(msgspec.Struct, frozen=True, kw_only=True):
    """One setting: its meaning, its default and the accepted values."""

    name: str
    default: Value  # its type is the type of the value
    least: float = 0
    most: float = math.inf
    choices: tuple[str, ...] = ()  # the accepted words, if it is not a number
    unit: str = ""  # of a number
    title: str  # after the unit: the meaning in one line
    cost: str  # what a higher value brings and costs

    @property
    def rule(self) -> str:
        """The accepted values, as text."""
        if self.choices:
            return " or ".join(map(repr, self.choices))
        if isinstance(self.default, bool):
            return "True or False"
        kind = "a whole number" if isinstance(self.default, int) else "a number"
        of = f" of {self.unit}" if self.unit else ""
        most = f" to {self.most:,.0f}" if self.most < math.inf else " or more"
        return f"{kind}{of}, {self.least:g}{most}"

    @property
    def meaning(self) -> str:
        """The meaning and the cost, in sentences."""
        return f"{self.brief[0].upper()}{self.brief[1:]}. {self.cost}"

    @property
    def brief(self) -> str:
        """The meaning, in a few words."""
        return f"{self.unit} {self.title}".lstrip()

    @property
    def variable(self) -> str:
        """The environment variable that has the value to begin with."""
        return f"MPREG_NB_{self.name.upper()}"

    def first(self, environment: Mapping[str, str]) -> Value:
        """Return the value that `environment` gives, or the default.

        Raises:
            ValueError: this key does not accept it.
        """
        text = environment.get(self.variable)
        if not text:
            return self.default
        try:
            return self.checked(self._read(text))
        except (KeyError, TypeError, ValueError):
            rule = "0 or 1" if isinstance(self.default, bool) else self.rule
            raise ValueError(
                f"the environment variable {self.variable} must be {rule}, not "
                f"{text!r:.60}. Change it, or remove it: unset {self.variable}"
            ) from None

    def _read(self, text: str) -> object:
        if isinstance(self.default, bool):
            return {"0": False, "false": False, "1": True, "true": True}[text.lower()]
        return text if self.choices else type(self.default)(text)

    def checked(self, value: object) -> Value:
        """Return `value` if this key accepts it.

        Raises:
            TypeError: the value is of another type.
            ValueError: the value is out of bounds.
        """
        refusal = f"{self.name} must be {self.rule}, not {value!r:.60}"
        if self.choices:
            if not isinstance(value, str):
                raise TypeError(refusal)
            if value not in self.choices:
                raise ValueError(refusal)
            return value
        if isinstance(self.default, bool):
            accepted = isinstance(value, bool)
        else:
            kinds = int if isinstance(self.default, int) else (int, float)
            accepted = isinstance(value, kinds) and not isinstance(value, bool)
        if not accepted:
            raise TypeError(refusal)
        number: Any = value
        if not self.least <= number <= self.most:
            raise ValueError(refusal)
        kind: Any = type(self.default)
        return kind(number) if math.isfinite(number) else float(number)


KEYS: Mapping[str, Key] = {
    key.name: key
    for key in (
        Key(
            name="workers",
            default=1,
            most=256,
            unit="processes",
            title="per node that up starts, for user code",
            cost="Each takes about 40 MB. With 0, the node only forwards calls.",
        ),
        Key(
            name="slots",
            default=1,
            least=1,
            most=1024,
            unit="calls",
            title="at once per worker that up starts",
            cost="They run in threads of one process and share its memory: faster for "
            "functions that wait, not for functions that compute in Python.",
        ),
        Key(
            name="keep",
            default=False,
            title="nodes that up starts outlive this kernel",
            cost="They keep their memory until mp.down().",
        ),
        Key(
            name="cwd",
            default="caller",
            choices=("caller", "scratch"),
            title="the working folder of calls, for relative paths",
            cost="'caller' is the folder of this kernel, on nodes of the same machine; "
            "'scratch' is a folder of the node, everywhere. With several slots, the "
            "async functions of a worker share the folder of the newest call. "
            "Functions with isolation='thread' use the folder of their node.",
        ),
        Key(
            name="shared_memory_mb",
            default=DEFAULT_LIMIT_MB,
            most=1 << 20,
            unit="MB",
            title="for large values, of this kernel and of each worker that up starts",
            cost="Large arrays, frames and bytes stay in memory that processes of one "
            "machine share, and are read-only there: np.array(x) makes a copy that can "
            "be written to. Beyond the limit, and with 0, they go through sockets.",
        ),
        Key(
            name="direct_calls",
            default=True,
            title="repeated calls go straight to a worker on this machine",
            cost="The node leases the worker to the caller as long as calls use it. "
            "False sends every call through the node, which takes about twice as long.",
        ),
        Key(
            name="start_timeout_s",
            default=20.0,
            least=0.1,
            most=3600,
            unit="seconds",
            title="in which each node must be ready",
            cost="Increase it for a slow disk. A node that never starts is reported "
            "only after this time.",
        ),
        Key(
            name="lease_s",
            default=30.0,
            least=1.0,
            most=86_400,
            unit="seconds",
            title="without a connection after which nodes on other machines end",
            cost="They survive a lost connection, or the end of a killed kernel, for "
            "this time. Nodes of keep=True continue.",
        ),
        Key(
            name="progress_after_s",
            default=2.0,
            unit="seconds",
            title="before a blocking call shows its progress",
            cost="0 shows it at once, also for short calls; inf never shows it.",
        ),
        Key(
            name="map_chunk_ms",
            default=5.0,
            most=1000,
            unit="milliseconds",
            title="of work that map, in workflows too, sends to a worker at once",
            cost="Short calls are sent in chunks, which takes far less time per call. "
            "0 sends each call of a map separately.",
        ),
        Key(
            name="chain_ms",
            default=5.0,
            most=1000,
            unit="milliseconds",
            title="of consecutive workflow steps that a worker gets at once",
            cost="The worker continues with the next step by itself, which takes far "
            "less time per step. 0 sends each step when the previous one has ended.",
        ),
        Key(
            name="output_lines",
            default=1000,
            least=1,
            most=1_000_000,
            unit="lines",
            title="that one call may print into its cell",
            cost="Further lines are counted and left out. A high limit makes notebooks "
            "large and slow to open.",
        ),
    )
}


def key_of(name: str) -> Key:
    """Return the key of a name.

    Raises:
        AttributeError: there is no such key; the message names the nearest.
    """
    if name in KEYS:
        return KEYS[name]
    meant = nearest(name, KEYS)
    hint = f" Did you mean {meant!r}?" if meant else ""
    raise AttributeError(
        f"there is no key {name!r}.{hint} The keys are: {', '.join(KEYS)}"
    )


@public
class Config:
    """The values by name; setting one checks it. Shows itself as a table."""

    workers: int
    slots: int
    keep: bool
    cwd: str
    shared_memory_mb: int
    direct_calls: bool
    start_timeout_s: float
    lease_s: float
    progress_after_s: float
    map_chunk_ms: float
    chain_ms: float
    output_lines: int

    __slots__ = tuple(KEYS)

    def __init__(self) -> None:
        """Start with the defaults."""
        self.reset()

    def __setattr__(self, name: str, value: object) -> None:
        is_new = not hasattr(self, name)
        object.__setattr__(self, name, key_of(name).checked(value))
        if name == "shared_memory_mb" and not (is_new and value == DEFAULT_LIMIT_MB):
            MEMORY.limit_bytes = bytes_of(self.shared_memory_mb)

    def reset(self) -> None:
        """Set all values to those of the environment, else to their defaults.

        Raises:
            ValueError: a variable has a value that its key does not accept.
        """
        for key in KEYS.values():
            setattr(self, key.name, key.first(os.environ))

    def frame(self) -> "pd.DataFrame":
        """Return one row a key, as a pandas DataFrame.

        Columns: key, value, default, accepted, meaning.
        """
        from mpreg_nb.view.frames import TEXT, frame

        # The values are of several types, so the column holds objects.
        columns = {"key": TEXT, "value": "object", "default": "object"}
        return frame(columns | {"accepted": TEXT, "meaning": TEXT}, self._rows())

    def _rows(self) -> list[tuple[Any, ...]]:
        return [
            (key.name, getattr(self, key.name), key.default, key.rule, key.meaning)
            for key in KEYS.values()
        ]

    def _table(self) -> "Table":
        from mpreg_nb.view.tables import Table

        return Table(
            head=["key", "value", "default", "meaning"],
            rows=[
                (key.name, str(getattr(self, key.name)), str(key.default), key.brief)
                for key in KEYS.values()
            ],
        )

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        from mpreg_nb.view.html import WIDE, chosen

        html = f'<div style="{WIDE}">{self._table().html}</div>'
        bundle = {"text/plain": repr(self), "text/html": html}
        return chosen(bundle, include, exclude)

    def __str__(self) -> str:
        return str(self._table())

    def __repr__(self) -> str:
        from mpreg_nb.view.terminal import shown

        return shown(self)


CONFIG = Config()
"""The values of this process."""

tell_if(lambda: CONFIG.cwd == "caller")


@public
def config(key: str | None = None, value: Value | None = None) -> "Config | Value":
    """Return all settings, which show themselves as a table, or that of `key`.

    value: set `key` to this first, for this process and from now on.

    Raises:
        AttributeError: there is no such key.
        TypeError, ValueError: the key does not accept the value; the message gives
            the accepted range.
    """
    if key is None:
        return CONFIG
    found = key_of(key)
    if value is not None:
        setattr(CONFIG, key, value)
    held: Value = getattr(CONFIG, found.name)
    return held
