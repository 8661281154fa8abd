"""Cells whose function `f` raises exceptions that are hard to pickle.

It is caught as `E`, and has the attributes in `has`.
"""

RAISING = {
    "frozen dataclass": """
        from dataclasses import dataclass
        @dataclass(frozen=True)
        class E(Exception):
            code: int
        def f():
            raise E(7)
        """,
    "frozen slotted dataclass": """
        from dataclasses import dataclass
        @dataclass(frozen=True, slots=True)
        class E(Exception):
            code: int
        def f():
            raise E(7)
        has = {"code": 7}
        """,
    "args that are computed": """
        class E(Exception):
            def __init__(self, text):
                self.text = text

            @property
            def args(self):
                return (self.text,)
        def f():
            raise E(7)
        has = {"text": 7, "args": (7,)}
        """,
    "read-only attributes": """
        class E(Exception):
            def __setattr__(self, n, v):
                raise TypeError("immutable")
        def f():
            raise E(7)
        """,
    "names of attributes looked up in data": """
        class E(Exception):
            def __init__(self, data):
                super().__init__("x")
                self.data = data

            def __getattr__(self, name):
                return self.__dict__["data"][name]
        def f():
            raise E({"k": 3})
        has = {"k": 3}
        """,
    "lacking attributes that raise something else": """
        class E(Exception):
            def __getattr__(self, name):
                raise RuntimeError(name)
        def f():
            raise E(3)
        """,
    "attributes that raise": """
        class E(Exception):
            def __getattribute__(self, name):
                if name.startswith("__"):
                    return super().__getattribute__(name)
                raise RuntimeError(name)
        def f():
            raise E(3)
        """,
    "slots without a value": """
        class E(Exception):
            __slots__ = ("a", "b")

            def __init__(self, a):
                super().__init__(a)
                self.a = a

            def __getattr__(self, n):
                raise KeyError(n)
        def f():
            raise E(3)
        has = {"a": 3}
        """,
    "required keyword arguments": """
        class E(Exception):
            def __init__(self, a, *, b):
                super().__init__(f"{a}{b}")
                self.b = b
        def f():
            raise E(1, b=2)
        has = {"b": 2}
        """,
    "final class": """
        class E(Exception):
            def __init_subclass__(cls, **k):
                raise TypeError("final")
        def f():
            raise E("x")
        """,
    "metaclass with keywords": """
        class M(type):
            def __new__(m, n, b, d, *, k):
                return super().__new__(m, n, b, d)

            def __init__(m, n, b, d, *, k):
                pass

            def __call__(cls, *a):
                return super().__call__(*a)
        class E(Exception, metaclass=M, k=1):
            pass
        def f():
            raise E("x")
        """,
    "attributes named like ours": """
        class E(Exception):
            type_name = "mine"

            def __init__(self):
                super().__init__("x")
                self.function = 1
                self.node = 2
                self.original = 3
                self.remote_traceback = 4
                self._travels = 5
                self.where = 6
                self.argument_types = 7
        def f():
            raise E()
        has = dict(
            function=1,
            node=2,
            original=3,
            remote_traceback=4,
            _travels=5,
            where=6,
            argument_types=7,
            type_name="mine",
        )
        """,
    "properties named like ours": """
        class E(Exception):
            @property
            def node(self):
                return "prop"

            @property
            def original(self):
                raise KeyError("o")
        def f():
            raise E(1)
        has = dict(node="prop")
        """,
    "no traceback": """
        class E(Exception):
            pass
        def f():
            raise E(1).with_traceback(None)
        """,
    "text that exits": """
        class E(Exception):
            def __str__(self):
                raise SystemExit(3)

            __repr__ = __str__
        def f():
            raise E(1)
        """,
    "pickling that raises": """
        class E(Exception):
            def __reduce__(self):
                raise RuntimeError("no")
        def f():
            raise E(1)
        """,
    "unpickling that raises": """
        class E(Exception):
            def __setstate__(self, s):
                raise RuntimeError("no")

            def __new__(cls, *a):
                if not a:
                    raise SystemExit
                return super().__new__(cls, *a)
        def f():
            raise E(1)
        """,
    "causes in a ring": """
        from dataclasses import dataclass
        @dataclass(frozen=True)
        class E(Exception):
            code: int
        def f():
            a, b = E(1), KeyError(2)
            BaseException.__cause__.__set__(a, b)
            b.__cause__ = a
            raise a
        """,
    "group": """
        class G(ExceptionGroup):
            def __new__(cls, m, e, k=0):
                o = super().__new__(cls, m, e)
                o.k = k
                return o

            def derive(self, e):
                return G(self.message, e, self.k)
        class Odd(Exception):
            def __init__(self, *, a):
                self.a = a
        def f():
            raise G("m", [Odd(a=1), ValueError(2)], 5)
        has = {"k": 5}
        E = G
        """,
    "pydantic": """
        import pydantic
        class M(pydantic.BaseModel):
            n: int

            @pydantic.field_validator("n")
            @classmethod
            def v(cls, x):
                raise ValueError("nope")
        E = pydantic.ValidationError
        def f():
            M(n=3)
        """,
    "frozen attrs": """
        import attrs as at
        @at.frozen
        class E(Exception):
            code: int
            why: str = at.field(kw_only=True)
        def f():
            raise E(3, why="w")
        """,
    "OSError with a keyword": """
        class E(OSError):
            def __init__(self, path, *, n):
                super().__init__(2, "no", path)
                self.n = n
        def f():
            raise E("p", n=2)
        has = dict(filename="p", errno=2, n=2)
        """,
    "JSON": """
        import json

        E = json.JSONDecodeError
        def f():
            json.loads("{")
        has = dict(lineno=1)
        """,
    "subprocess": """
        import subprocess

        E = subprocess.CalledProcessError
        def f():
            raise subprocess.CalledProcessError(3, ["a"], b"out")
        has = dict(returncode=3, output=b"out")
        """,
    "generic and abstract": """
        import abc, typing

        T = typing.TypeVar("T")
        class Base(Exception, typing.Generic[T], abc.ABC):
            @abc.abstractmethod
            def m(self): ...
        class E(Base[int]):
            def m(self):
                return 3
        def f():
            raise E(3)
        """,
    "two builtin bases": """
        class E(KeyError, AttributeError):
            pass
        def f():
            raise E("k")
        """,
    "an error that holds itself": """
        class E(Exception):
            pass
        def f():
            e = E(1)
            e.me = e
            e.tb = e.__traceback__
            raise e
        """,
    "no hash": """
        from dataclasses import dataclass
        @dataclass
        class E(Exception):
            a: list
        def f():
            raise E([1])
        has = dict(a=[1])
        """,
    "dictionary that is computed": """
        class E(Exception):
            @property
            def __dict__(self):
                raise RuntimeError("d")
        def f():
            raise E(1)
        """,
}
