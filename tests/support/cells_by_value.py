"""Cells with what cannot be imported, and a function `f` that uses it.

`f` runs elsewhere as it does here. Where results are equal in another sense than `==`,
`same` tells. TYPE_STATEMENTS need Python 3.12.
"""

CELLS = {
    "dataclass": """
        from dataclasses import dataclass
        @dataclass
        class C:
            rate: float = 0.5
        c = C()
        def f():
            return c.rate, c
        """,
    "frozen slotted dataclass": """
        from dataclasses import dataclass
        @dataclass(frozen=True, slots=True)
        class C:
            rate: float = 0.5

            def twice(self):
                return C(self.rate * 2)
        c = C()
        def f():
            return c.twice()
        """,
    "slotted dataclasses that inherit": """
        from dataclasses import dataclass, field
        @dataclass(slots=True, weakref_slot=True, kw_only=True, order=True)
        class C:
            a: int
            b: list = field(default_factory=list)
        @dataclass(slots=True, kw_only=True, order=True)
        class D(C):
            c: int = 3
        c = D(a=1, b=[2])
        def f():
            import weakref

            weakref.ref(c)
            assert not hasattr(c, "__dict__")
            return c
        """,
    "dataclass with __post_init__": """
        from dataclasses import dataclass, field, InitVar
        from typing import ClassVar
        @dataclass
        class C:
            a: int
            n: InitVar[int] = 3
            total: ClassVar[int] = 0
            s: int = field(init=False)

            def __post_init__(self, n):
                self.s = self.a + n
        c = C(4)
        def f():
            return C(3).s, c
        """,
    "slots": """
        class P:
            __slots__ = ("x", "__private")

            def __init__(self, x):
                self.x = x
                self.__private = 2

            def __eq__(self, o):
                return (self.x, self.__private) == (o.x, o.__private)
        class Q(P):
            __slots__ = ("y", "__dict__")
        p = Q(1)
        p.y = 2
        p.z = 3
        r = P(1)
        def f():
            try:
                r.foo = 2
            except AttributeError:
                pass
            else:
                raise ValueError
            return p
        """,
    "slots as text and as dict": """
        class P:
            __slots__ = "x"
        class Q:
            __slots__ = {"a": "doc of a", "__weakref__": "w"}
        q = Q()
        q.a = 3
        p = P()
        p.x = 5
        def f():
            import weakref

            weakref.ref(q)
            return q.a, p.x, Q.__slots__, P.__slots__, hasattr(p, "__dict__")
        """,
    "namedtuple": """
        import collections

        P = collections.namedtuple("P", "x y", defaults=(3,))
        p = P(1)
        def f():
            return p._replace(y=9), p, P(5)
        """,
    "NamedTuple that knows instances": """
        from typing import NamedTuple
        class P(NamedTuple):
            x: int
            y: int = 3

            def back(self):
                return ORIGIN if self.x else self

            def __add__(self, o):
                return ORIGIN._replace(x=self.x + o.x)
        ORIGIN = P(0)
        P.UNIT = P(1)
        def f():
            return P(3).back(), ORIGIN, P.UNIT + P(4)
        """,
    "generic NamedTuple": """
        from typing import NamedTuple, Generic, TypeVar

        T = TypeVar("T")
        class P(NamedTuple, Generic[T]):
            x: T
        p = P[int](3)
        def f():
            return p, P.__orig_bases__ is not None
        """,
    "TypedDict": """
        from typing import TypedDict, NotRequired
        class T(TypedDict, total=False):
            a: int
        class U(T):
            b: NotRequired[str]
        u: U = U(a=1, b="x")
        def f():
            return (
                u,
                U(a=3),
                sorted(U.__annotations__),
                U.__total__,
                sorted(U.__optional_keys__),
            )
        """,
    "Protocol": """
        from typing import Protocol, runtime_checkable
        @runtime_checkable
        class Has(Protocol):
            def close(self) -> None: ...
        class A(Has):
            def close(self):
                return 1
        class B:
            def close(self):
                pass
        class N:
            pass
        a = A()
        def f():
            return (
                isinstance(a, Has),
                isinstance(B(), Has),
                isinstance(N(), Has),
                a.close(),
            )
        """,
    "ABC": """
        import abc
        class Shape(abc.ABC):
            @abc.abstractmethod
            def area(self): ...
            @property
            @abc.abstractmethod
            def name(self): ...
        class Sq(Shape):
            def __init__(self, n):
                self.n = n

            def area(self):
                return self.n**2

            name = "sq"

            def __eq__(self, o):
                return vars(self) == vars(o)
        @Shape.register
        class Other:
            pass
        s = Sq(3)
        def f():
            try:
                Shape()
            except TypeError:
                pass
            else:
                raise ValueError
            return s.area(), isinstance(s, Shape), issubclass(Other, Shape), s
        """,
    "attrs": """
        import attrs
        @attrs.define
        class A:
            x: int
            y: list = attrs.field(
                factory=list, validator=attrs.validators.instance_of(list)
            )

            def grow(self):
                return A(self.x + 1, [*self.y, 1])
        @attrs.frozen(kw_only=True)
        class B(A):
            z: int = attrs.field(default=3, converter=int)

            def sup(self):
                return super().grow()
        @attrs.define(slots=False)
        class C:
            x: int = 4
        a, b, c = A(1), B(x=1, y=[2]), C()
        def f():
            assert not hasattr(a, "__dict__")
            return (
                a.grow(),
                b,
                attrs.asdict(b),
                b.sup(),
                c,
                [x.name for x in attrs.fields(B)],
            )
        """,
    "classic attrs": """
        import attr
        @attr.s(auto_exc=True, auto_attribs=True)
        class E(Exception):
            code: int
        @attr.s(hash=True, these={"x": attr.ib(default=3)})
        class A:
            pass
        a = A()
        def f():
            return a, hash(A()) == hash(a), E(3).code
        """,
    "pydantic models": """
        import pydantic
        from typing import Generic, TypeVar

        T = TypeVar("T")
        class M(pydantic.BaseModel):
            x: int
            y: list[int] = [1]

            @pydantic.field_validator("x")
            @classmethod
            def pos(cls, v):
                if v < 0:
                    raise ValueError("neg")
                return v
        class N(M):
            model_config = pydantic.ConfigDict(frozen=True)
            m: M
            _p: int = pydantic.PrivateAttr(default=5)
        class G(pydantic.BaseModel, Generic[T]):
            v: T
        m = M(x=1)
        n = N(x=2, m=m)
        g = G[int](v=4)
        def f():
            try:
                M(x=-1)
            except pydantic.ValidationError as e:
                assert e.error_count() == 1
            else:
                raise RuntimeError
            return (
                m,
                n,
                n._p,
                M.model_validate({"x": "7"}),
                n.model_dump(),
                g.v,
                G[int](v=9).v,
            )
        """,
    "pydantic dataclass": """
        import pydantic, pydantic.dataclasses
        @pydantic.dataclasses.dataclass
        class D:
            x: int = 3
        d = D(x="4")
        def f():
            return d, D(x="5"), pydantic.TypeAdapter(list[int]).validate_python(["1"])
        """,
    "subclasses of builtins": """
        class D(dict):
            def __setitem__(self, k, v):
                super().__setitem__(k, v * 2)
        class L(list):
            def append(self, x):
                super().append(x + 1)
        class I(int):
            def __new__(cls, v, extra=None):
                o = super().__new__(cls, v)
                o.extra = extra
                return o
        class S(str):
            pass
        class T(tuple):
            pass
        class Se(set):
            pass
        class F(frozenset):
            pass
        class E(Exception):
            pass
        class Fl(float):
            pass
        class By(bytes):
            pass
        d, l, i, s, t, se = D(), L([]), I(3, "e"), S("x"), T([1, 2]), Se([1])
        pass
        fs, fl, by = F([1]), Fl(2.5), By(b"x")
        def f():
            return d, l, i, i.extra, s, t, se, fs, fl, by
        same = lambda a, b: a == b and list(map(type, a)) == list(map(type, b))
        """,
    "subclasses of the library's": """
        import collections, datetime, decimal, pathlib, enum
        class O(collections.OrderedDict):
            pass
        class DD(collections.defaultdict):
            def __missing__(self, k):
                return k
        class Q(collections.deque):
            pass
        class Ct(collections.Counter):
            pass
        class Dt(datetime.datetime):
            pass
        class Dec(decimal.Decimal):
            pass
        class U(collections.UserDict):
            pass
        o, dd, q, c, dt, dec, u = (
            O(a=1),
            DD(list),
            Q([1], 3),
            Ct("aab"),
            Dt(2024, 1, 2),
            Dec("1.5"),
            U(a=1),
        )
        def f():
            return o, dd["zz"], q, c, dt, dec, u
        same = lambda a, b: a == b and list(map(type, a)) == list(map(type, b))
        """,
    "instances in the body of a class": """
        class Pos:
            def __set_name__(self, owner, name):
                self.name = "_" + name

            def __get__(self, one, owner):
                return self if one is None else getattr(one, self.name)

            def __set__(self, one, value):
                setattr(one, self.name, abs(value))
        class Acc:
            money = Pos()

            def __init__(self, m):
                self.money = m

            def __eq__(self, o):
                return vars(self) == vars(o)
        class Vec:
            def __init__(self, x):
                self.x = x

            def __hash__(self):
                return hash(self.x)

            def __eq__(self, o):
                return self.x == o.x

            def plus(self):
                return Vec(self.x + Vec.ONE.x)
        Vec.ONE = Vec(1)
        Vec.ALL = {Vec(1), Vec(2)}
        Vec.BY = {Vec(3): 1}
        def f():
            return Acc(-3), Acc(-4).money, Vec(1).plus(), Vec.ALL, Vec.BY
        """,
    "a method that names an instance": """
        class Reg:
            def __init__(self):
                self.things = {}

            def add(self, x):
                reg.things[x] = 1
                return sorted(reg.things)

            def same(self):
                return self is reg
        reg = Reg()
        def f():
            return reg.add(3), reg.same()
        same = lambda a, b: True
        """,
    "instances with ways of their own to be made": """
        class St:
            def __init__(self, v):
                self.v = v

            def __getstate__(self):
                return [self.v]

            def __setstate__(self, s):
                self.v = s[0]

            def other(self):
                return NULL.v

            def __eq__(self, o):
                return self.v == o.v

            def __hash__(self):
                return hash(self.v)
        NULL = St(7)
        SETS = {NULL}
        St.set = SETS
        class Red:
            def __init__(self, a):
                self.a = a

            def __reduce__(self):
                return Red, (self.a,)

            def o(self):
                return R0.a
        R0 = Red(4)
        def f():
            return St(1).other(), NULL, NULL in SETS, R0.o(), Red(3).o()
        """,
    "classes that hold instances of each other": """
        class A:
            def g(self):
                return b.n

            n = 1
        class B:
            def g(self):
                return a.n

            n = 2
        a, b = A(), B()
        A.partner, B.partner = b, a
        def f():
            return a.g(), b.g(), a.partner is b, b.partner is a
        """,
    "singleton": """
        class Single:
            one = None

            def __new__(cls):
                if cls.one is None:
                    cls.one = super().__new__(cls)
                return cls.one
        s = Single()
        def f():
            return Single() is s, s
        same = lambda a, b: a[0] == b[0]
        """,
    "bound methods and partials": """
        import functools
        class M:
            k = 2

            def __init__(self):
                self.w = 3

            def p(self, x=1):
                return self.k * x + self.w
        m = M()
        def outer(inner):
            def g(x, *, kw=m):
                return inner.p(x) + kw.p(x)

            return g
        g = outer(m)
        pp = functools.partial(m.p, 5)
        bm = m.p
        def f(d=m):
            return g(3), pp(), bm(2), d.p()
        """,
    "NewType and type variables": """
        import typing

        U = typing.NewType("U", int)
        Sh = typing.TypeVarTuple("Sh")
        P = typing.ParamSpec("P")
        T = typing.TypeVar("T", bound="int", covariant=True)
        V = typing.TypeVar("V", int, str)
        def deco(g: typing.Callable[P, T]) -> typing.Callable[P, T]:
            def run(*a: P.args, **k: P.kwargs) -> T:
                return g(*a, **k)

            return run
        @deco
        def one(u: U, *a: typing.Unpack[Sh]) -> U:
            return U(u)
        class Box(typing.Generic[T, typing.Unpack[Sh]]):
            pass
        class Cal(typing.Generic[P]):
            pass
        def f(x: V = 3) -> tuple[typing.Unpack[Sh]]:
            return (
                one(U(3)),
                T,
                V,
                Sh,
                P,
                U,
                Box.__parameters__,
                typing.get_type_hints(f)["x"] is V,
                Cal[[int]],
            )
        """,
    "enums": """
        from enum import *
        class Planet(Enum):
            EARTH = (5.976e24, 6.37814e6)
            MARS = (6.4e23, 3.4e6)

            def __init__(self, mass, radius):
                self.mass, self.radius = mass, radius

            @property
            def g(self):
                return 6.673e-11 * self.mass / self.radius**2
        class Coded(IntEnum):
            OK = 200, "fine"

            def __new__(cls, value, phrase):
                one = int.__new__(cls, value)
                one._value_ = value
                one.phrase = phrase
                return one
        class Perm(Flag):
            R = auto()
            W = auto()
            RW = R | W
        class IP(IntFlag, boundary=KEEP):
            A = 1
            B = 4
        class S(StrEnum):
            @staticmethod
            def _generate_next_value_(n, s, c, l):
                return n.lower()

            ONE = auto()
            TWO = "two"
            ALIAS = "two"

            @classmethod
            def _missing_(cls, v):
                return cls.ONE
        class Un(Enum):
            L = [1]
            D = {"a": 1}

            @member
            def fn(self):
                return 3

            @nonmember
            class Inner:
                pass
        class Meth(Enum):
            A = 1

            def other(self):
                return Meth.B if self is Meth.A else LAST

            B = 2
        LAST = Meth.B
        from dataclasses import dataclass
        @dataclass
        class Mix:
            a: int
        class DM(Mix, Enum):
            X = 3
            Y = 4
        class Base(Enum):
            def hi(self):
                return self.name
        class Der(Base):
            Q = object()
            Z = 1
        class Tup(tuple, Enum):
            T = (1, 2)
        import datetime
        class Dt(datetime.date, Enum):
            N = 2024, 1, 2
        class Fl(float, Enum):
            H = 0.5
        def f():
            return (
                Planet.EARTH.g,
                Coded.OK.phrase,
                Coded(200),
                Perm.R | Perm.W,
                Perm(3),
                Perm.R in Perm.RW,
                ~Perm.R,
                IP.A | IP.B,
                IP(9),
                S.TWO,
                S.ALIAS,
                S("nix"),
                list(S),
                Un.L,
                Un([1]),
                Meth.A.other(),
                Meth.B.other(),
                DM.X.a,
                DM(DM.Y.value),
                Der.Z.hi(),
                list(Der)[1],
                len(Tup.T),
                Dt.N.year,
                Fl.H + 1,
                [*Planet],
                Perm["W"],
                Planet((5.976e24, 6.37814e6)) is Planet.EARTH,
                repr(Perm.RW),
                LAST is Meth.B,
            )
        def same(a, b):
            return all(
                x == y
                and type(x) is type(y)
                and (not isinstance(x, Enum) or isinstance(x, Flag) or x is y)
                for x, y in zip(a, b)
            )
        """,
    "members as values": """
        from enum import *
        class P(Flag):
            R = auto()
            W = auto()
        class C(Enum):
            A = 1
            B = [2]
        class K(int, Enum):
            Z = 1, "x"

            def __new__(cls, v, n):
                o = int.__new__(cls, v)
                o._value_ = v
                o.n = n
                return o
        def f():
            return P.R, P.R | P.W, C.A, C.B, K.Z, {C.A: 1}
        same = lambda a, b: a == b and all(x is y for x, y in zip(a[:5], b[:5]))
        """,
    "metaclass with keywords": """
        class Tagged(type):
            def __new__(meta, name, bases, body, *, tag):
                cls = super().__new__(meta, name, bases, body)
                cls.tag = tag
                return cls

            def __init__(cls, name, bases, body, *, tag):
                super().__init__(name, bases, body)

            def __call__(cls, *a):
                o = super().__call__(*a)
                o.made = True
                return o

            def __setattr__(cls, n, v):
                if n == "frozen":
                    raise TypeError
                super().__setattr__(n, v)

            @classmethod
            def __prepare__(meta, name, bases, *, tag):
                return {"prep": 1}

            def __len__(cls):
                return 5
        class Thing(metaclass=Tagged, tag="t"):
            pass
        class Sub(Thing, tag="u"):
            def __eq__(self, o):
                return vars(self) == vars(o)
        def f():
            return Thing().tag, Thing().made, len(Sub), Sub.tag, Sub.prep, Sub()
        """,
    "__init_subclass__ with keywords": """
        registry = {}
        class Plugin:
            def __init_subclass__(cls, *, name, **kw):
                super().__init_subclass__(**kw)
                if name in registry:
                    raise TypeError("twice")
                registry[name] = cls
                cls.name = name
        class A(Plugin, name="a"):
            def __eq__(self, o):
                return vars(self) == vars(o)
        class B(A, name="b"):
            pass
        def f():
            class C(A, name="c"):
                pass

            del registry["c"]
            return A.name, B().name, sorted(registry), registry["a"] is A, A()
        same = lambda a, b: a == b or a[2] != b[2]
        """,
    "abstract classes with keywords": """
        import abc
        class Base(abc.ABC):
            def __init_subclass__(cls, *, k):
                cls.k = k

            @abc.abstractmethod
            def m(self): ...
        class A(Base, k=2):
            def m(self):
                return self.k
        def f():
            try:
                Base()
            except TypeError:
                pass
            return (
                A().m(),
                isinstance(A(), Base),
                A.__abstractmethods__,
                Base.__abstractmethods__,
            )
        """,
    "descriptors": """
        class D:
            def __set_name__(self, o, n):
                self.n = n
                seen.append(n)

            def __get__(self, o, t=None):
                return self if o is None else o.__dict__.get(self.n, 7)
        seen = []
        class A:
            x = D()
            y = D()
        def f():
            a = A()
            a.__dict__["x"] = 3
            return a.x, a.y, A.x.n, seen
        """,
    "module made by hand": """
        import types

        m = types.ModuleType("dyn_mod", "doc")
        exec(
            '''
        import math
        class K:
            n = 2
            def twice(self): return helper(self.n)
            def __eq__(self, o): return type(self) is type(o)
        def helper(x): return K.n * x + K2.z
        class K2(K): z = 1
        ''',
            vars(m),
        )
        k = m.K()
        def f():
            return m.K().twice(), m.helper(3), k, m.__doc__, m.__name__, m.K2().twice()
        """,
    "modules that hold each other": """
        import types

        m = types.ModuleType("dyn_mod2")
        m.me = m
        m.sub = types.ModuleType("dyn_mod2.sub")
        m.sub.parent = m
        def f():
            return m.me is m, m.sub.parent is m
        """,
    "singledispatch": """
        import functools
        @functools.singledispatch
        def kind(x):
            return "other"
        class A:
            pass
        @kind.register
        def _(x: A):
            return "A"
        @kind.register(int)
        def _(x):
            return "int"
        class M:
            @functools.singledispatchmethod
            def m(self, x):
                return "o"

            @m.register
            def _(self, x: int):
                return "i"

            @functools.cached_property
            def c(self):
                return 5

            @functools.lru_cache
            def l(self, x):
                return x

            part = functools.partialmethod(l, 3)

            @property
            def p(self):
                return 1

            @p.setter
            def p(self, v):
                pass

            @functools.total_ordering
            class O:
                def __lt__(self, o):
                    return True

                def __eq__(self, o):
                    return True
        m = M()
        def f():
            return (
                kind(A()),
                kind(3),
                kind(""),
                m.m(3),
                m.m(""),
                m.c,
                m.l(2),
                m.part(),
                m.p,
                M.O() >= M.O(),
            )
        """,
    "generic classes": """
        from typing import Generic, TypeVar, get_type_hints

        T = TypeVar("T")
        class Box(Generic[T]):
            def __init__(self, v: T) -> None:
                self.v = v

            def __eq__(self, o):
                return self.v == o.v
        class IntBox(Box[int]):
            pass
        b = Box[int](3)
        def f():
            return (
                b,
                IntBox(4),
                Box.__parameters__ == (T,),
                IntBox.__orig_bases__,
                Box[str],
            )
        """,
    "exceptions": """
        class E(Exception):
            def __init__(self, a, *, b):
                super().__init__(a)
                self.b = b
        class F(E):
            __slots__ = ("z",)
        e = None
        def f():
            try:
                raise F(1, b=2)
            except E as e:
                return e.b, e.args
        """,
    "nested classes": """
        class Outer:
            class Inner:
                def __init__(self, x):
                    self.x = x

                def __eq__(self, o):
                    return self.x == o.x

            class Der(Inner):
                pass

            default = Inner(3)

            def make(self):
                return self.Inner(4), Outer.default
        o = Outer()
        def f():
            return o.make(), Outer.Der(5)
        """,
    "super and special attributes": """
        class Base:
            __hash__ = None

            @classmethod
            def make(cls):
                return cls()

            @staticmethod
            def st():
                return 3

            def who(self):
                return "base"

            def __class_getitem__(cls, i):
                return i
        class D(Base):
            def who(self):
                return super().who() + __class__.__name__

            def __getattr__(self, n):
                if n == "magic":
                    return 42
                raise AttributeError(n)
        d = D()
        def f():
            try:
                hash(d)
            except TypeError:
                pass
            else:
                raise ValueError
            return (
                d.who(),
                D.make().magic,
                D.st(),
                D[3],
                D.__doc__,
                D.__module__,
                D.__qualname__,
                D.__firstlineno__ if hasattr(D, "__firstlineno__") else 0,
            )
        """,
    "traitlets": """
        import traitlets
        class H(traitlets.HasTraits):
            x = traitlets.Int(3)

            @traitlets.observe("x")
            def ch(self, c):
                self.seen = c.new
        h = H()
        h.x = 4
        def f():
            q = H()
            q.x = 9
            return h.x, q.seen
        """,
    "mapping": """
        import collections.abc
        class M(collections.abc.Mapping):
            def __init__(self, d):
                self.d = d

            def __getitem__(self, k):
                return self.d[k]

            def __iter__(self):
                return iter(self.d)

            def __len__(self):
                return len(self.d)
        m = M({"a": 1})
        def f():
            return dict(m), isinstance(m, collections.abc.Mapping), m == {"a": 1}, m
        """,
    "match arguments": """
        class A:
            "doc"

            __slots__ = ()
        class B(A):
            x: int
            __slots__ = ("x",)
            __match_args__ = ("x",)

            def __init__(self, x):
                self.x = x

            def __eq__(self, o):
                return self.x == o.x
        class C(A, int):
            pass
        b = B(3)
        c = C(4)
        def f():
            match b:
                case B(y):
                    pass
            return y, A.__doc__, b, B.__annotations__, c
        """,
}

TYPE_STATEMENTS = """
    type Rows = list[int]
    type Json = dict[str, Json] | int
    type Pair[T] = tuple[T, T]

    class Box[T, *Ts, **P]:
        def put[K: int](self, k: K) -> K:
            return k

    def f(rows: Rows = 3) -> Json:
        again = Json.__value__.__args__[0].__args__[1]
        names = [alias.__module__ for alias in (Rows, Json, Pair)]
        return Rows.__value__, again is Json, str(Pair[int]), names, Box().put(3)
    """
