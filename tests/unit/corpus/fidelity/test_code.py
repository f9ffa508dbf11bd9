"""Same behaviour is called same, changed behaviour different, and what cannot be compared says why."""

import pytest

from isoflop.corpus.fidelity import LIMITS, Pair, compare_code, summarise
from isoflop.corpus.rows import TextRow, text_id
from isoflop.sandbox import Sandbox


def row(text):
    return TextRow(id=text_id(text), text=text, where="a:1")


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(limits=LIMITS, workers=2) as shared:
        yield shared


def compare(sandbox, before, after):
    (found,) = compare_code([Pair(before=row(before), after=row(after))], sandbox)
    return found


ADD = "def add(a, b):\n    return a + b\n"

SAME = [
    ("itself", ADD, ADD),
    ("another form", "def f(n):\n    if n > 3:\n        return True\n    else:\n        return False\n",
     "def f(n):\n    return n > 3\n"),
    ("sum in another order", "def f(xs):\n    return sum(xs) / 3.0\n",
     "def f(xs):\n    return sum(reversed(list(xs))) * (1 / 3.0)\n"),
    ("renamed parameters", ADD, "def add(first, second):\n    return first + second\n"),
    ("types and docstring", ADD, 'def add(a: int, b: int) -> int:\n    """Add."""\n    return a + b\n'),
    ("sets in any order", "def f(n):\n    return {n, n + 1}\n", "def f(n):\n    return {n + 1, n}\n"),
    ("generators",
     "def f(n):\n    for i in range(n):\n        yield i\n", "def f(n):\n    yield from range(n)\n"),
    ("objects of a renamed class", "class my_c: pass\ndef f(n):\n    return my_c()\n",
     "class MyC:\n    pass\ndef f(n):\n    return MyC()\n"),
    ("what is printed", "def f(n):\n    print('a', n)\n", "def f(n):\n    print(f'a {n}')\n"),
    ("sleep", "import time\ndef f(n):\n    time.sleep(60)\n    return n\n", "def f(n):\n    return n\n"),
    ("an absent package beside it", "import numpy\n" + ADD, "import numpy as np\n" + ADD),
    ("a script", "for i in range(3):\n    print(i)\n", "print(0, 1, 2, sep=chr(10))\n"),
    ("a script that asks",
     "n = int(input('n? '))\nprint(n * 2)\n", "value = int(input('n? '))\nprint(value + value)\n"),
    ("a main guard", "def main():\n    print('x')\nif __name__ == '__main__':\n    main()\n",
     "if __name__ == '__main__':\n    print('x')\n"),
    ("seeded draws", "import random\nrandom.seed(7)\nprint(random.random())\n",
     "import random as r\nr.seed(7)\nprint(r.random())\n"),
    ("the address of an object",
     "def f(n):\n    return str(object())\n", "def f(n):\n    return repr(object())\n"),
    ("a number that is no file",
     "def f(n: int):\n    try:\n        open(n)\n    except TypeError:\n        return 1\n",
     "def f(n: int):\n    return 1\n"),
    ("a number that is no path",
     "import os\ndef f(n: int):\n    return [os.path.exists(m) for m in range(60)], n\n",
     "def f(n: int):\n    return [False] * 60, n\n"),
    ("a number that is no folder",
     "import os\ndef f(n: int):\n    for m in range(60):\n        try:\n            os.listdir(m)\n"
     "        except NotADirectoryError:\n            return m\n        except OSError:\n            pass\n",
     "def f(n: int):\n    return None\n"),
    ("a doctest's report in another layout",
     'def f(n):\n    """\n    >>> f(1)\n    3\n    """\n    return n\nimport doctest\ndoctest.testmod()\n',
     '\ndef f(n):\n    """\n    >>> f(1)\n    3\n    """\n    return n\nimport doctest\ndoctest.testmod()\n'),
    ("objects of equal attributes",
     "class a_b:\n    def __init__(self, v):\n        self.my_v = v\ndef f(n: int):\n    return a_b(n)\n",
     "class AB:\n    def __init__(self, v):\n        self.myV = v\ndef f(n: int):\n    return AB(n)\n"),
    ("a global made local", "C = 0\ndef f(n: int):\n    global C\n    C = n\n    return C\n",
     "def f(n: int):\n    c = n\n    return c\n"),
    ("a renamed constant that is counted", "my_c = 0\ndef f(n: int):\n    global my_c\n    my_c += n\n",
     "MY_C = 0\ndef f(n: int):\n    global MY_C\n    MY_C = MY_C + n\n"),
    ("a private memory", "_m = {}\ndef f(n: int):\n    _m[n] = 1\n    return n\n",
     "_m = {}\ndef f(n: int):\n    return n\n"),
    ("error output in another layout",
     "import traceback as t\ndef f(n: int):\n    try: 1 / 0\n    except: t.print_exc()\n",
     "import traceback as t\n\n\ndef f(n: int):\n    try:\n        1 / 0\n    except: t.print_exc()\n"),
    ("a warning", "def f(n: int):\n    return n is 3 or n\n", "\n\ndef f(n: int):\n    return n is 3 or n\n"),
    ("an end with status 0", "import sys\nprint(1)\nsys.exit(0)\n", "print(1)\n"),
    ("functions of a module that stops", ADD + "open('/no/such')\n", ADD + "open('/no/such')\n"),
]  # fmt: skip

DIFFERENT = [
    ("result", ADD, "def add(a, b):\n    return a - b\n", "result"),
    ("one branch", "def f(n):\n    return n == 7\n", "def f(n):\n    return False\n", "result"),
    ("one text", "def f(s):\n    return s == 'magic'\n", "def f(s):\n    return False\n", "result"),
    ("exception",
     "def f(n):\n    return 10 // n\n", "def f(n):\n    return 10 // n if n else 0\n", "exception"),
    ("another exception", "def f(n):\n    if n < 0:\n        raise ValueError\n    return n\n",
     "def f(n):\n    if n < 0:\n        raise KeyError\n    return n\n", "exception"),
    ("output", "def f(n):\n    print(n)\n", "def f(n):\n    print(n, '!')\n", "output"),
    ("a changed argument", "def f(items):\n    items.sort()\n    return 1\n",
     "def f(items):\n    sorted(items)\n    return 1\n", "arguments"),
    ("no end", "def f(n):\n    return n\n", "def f(n):\n    while True:\n        pass\n", "time"),
    ("a fault in the module", ADD, ADD + "undefined\n", "exception"),
    ("fewer parameters", ADD, "def add(a):\n    return a\n", "exception"),
    ("a script", "print(1)\n", "print(2)\n", "output"),
    ("a line's number that is the program's own", "print('line 3')\n", "print('line 4')\n", "output"),
    ("a list for a tuple", "def f(n):\n    return (n, n)\n", "def f(n):\n    return [n, n]\n", "result"),
    ("a whole number for a float", "def f(n: int):\n    return 10**12 + n\n",
     "def f(n: int):\n    return 10**12 + n + 1\n", "result"),
    ("an object's attribute",
     "class A:\n    def __init__(self, v):\n        self.v = v\ndef f(n: int):\n    return A(n)\n",
     "class A:\n    def __init__(self, v):\n        self.v = 1\ndef f(n: int):\n    return A(n)\n", "result"),
    ("a global", "C = 0\ndef f(n: int):\n    global C\n    C += n\n",
     "C = 0\ndef f(n: int):\n    global C\n    C -= n\n", "globals"),
    ("a list of the module",
     "L = []\ndef f(n: int):\n    L.append(n)\n", "L = []\ndef f(n: int):\n    pass\n", "globals"),
    ("error output", "import sys\ndef f(n: int):\n    print(n, file=sys.stderr)\n",
     "def f(n: int):\n    pass\n", "error output"),
    ("exit status",
     "import sys\nprint(1)\nsys.exit(0)\n", "import sys\nprint(1)\nsys.exit(3)\n", "exit status"),
    ("exit with a text", "import sys\nsys.exit('no')\n", "import sys\nsys.exit('yes')\n", "exit status"),
    ("exit", "def f(n):\n    raise SystemExit(0)\n", "def f(n):\n    raise SystemExit(1)\n", "result"),
    ("chance put in",
     "def f(n):\n    return n\n", "import random\ndef f(n):\n    return n + random.random()\n", "result"),
]  # fmt: skip

NOT_COMPARABLE = [
    ("draws", "import random\ndef f(n):\n    return random.random()\n", None, "not deterministic"),
    ("the clock", "import time\ndef f(n):\n    return time.perf_counter_ns()\n", None, "not deterministic"),
    ("a function returned", "def f(n: int):\n    return lambda x: x + n\n", None, "opaque result"),
    ("absent package", "import numpy as np\ndef f(n):\n    return np.zeros(n)\n", None, "absent package"),
    ("always raises", "def f(n):\n    raise ValueError\n", None, "every call raised"),
    ("no end before", "def f(n):\n    while True:\n        pass\n", None, "time-out"),
    ("no functions", "class A:\n    pass\n", None, "nothing to call or run"),
    ("a coroutine", "async def f(n):\n    return n\n", None, "a coroutine"),
    ("gone", "def f(n):\n    return n\n", "def g(n, m):\n    return n\n", "no counterpart"),
    ("broken after", ADD, "def add(a, b:\n", "does not compile"),
    ("a silent script", "x = [1]\nx.append(2)\n", None, "prints nothing"),
    ("a script that fails", "open('/no/such')\n", None, "stops with FileNotFoundError"),
    ("a script that wants words", "d = {'a': 1}\nprint(d[input()])\n", None, "stops with KeyError"),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after"), [c[1:] for c in SAME], ids=[c[0] for c in SAME])
def test_the_same_behaviour(sandbox, before, after):
    found = compare(sandbox, before, after)
    assert found.verdict == "same", found


@pytest.mark.parametrize(
    ("before", "after", "kind"), [c[1:] for c in DIFFERENT], ids=[c[0] for c in DIFFERENT]
)
def test_another_behaviour(sandbox, before, after, kind):
    found = compare(sandbox, before, after)
    judged = [function.judgement for function in found.functions] + [found.program] * bool(
        found.program
    )
    assert found.verdict == "different", found
    assert kind in {kind for judgement in judged for kind in judgement.differs_in}
    assert any(judgement.example for judgement in judged)


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [c[1:] for c in NOT_COMPARABLE],
    ids=[c[0] for c in NOT_COMPARABLE],
)
def test_nothing_to_compare(sandbox, before, after, reason):
    found = compare(sandbox, before, before if after is None else after)
    assert (found.verdict, found.reason) == ("not comparable", reason)


def test_renamed_and_missing_functions_are_told(sandbox):
    before = "def removeOcc(s):\n    return s[1:]\ndef _x(s):\n    return s\n"
    before += "def lost(a, b, c):\n    return a\n"
    after = "def remove_occ(text):\n    return text[1:]\ndef _y(s):\n    return s\n"
    found = compare(sandbox, before, after)
    assert found.verdict == "same"
    assert found.renamed == ("removeOcc -> remove_occ",)
    assert found.missing == ("lost",)


def test_pairs_come_back_in_order_also_where_nothing_is_run(sandbox):
    texts = [ADD, "class A:\n    pass\n", "print(1)\n", "def f(n:\n", ADD + "print(add(1, 2))\n"]
    pairs = [Pair(before=row(text), after=row(text)) for text in texts]
    found = list(compare_code(pairs, sandbox))
    assert [r.before_id for r in found] == [pair.before.id for pair in pairs]
    assert [r.verdict for r in found] == [
        "same",
        "not comparable",
        "same",
        "not comparable",
        "same",
    ]


def test_two_runs_give_the_same_rows(sandbox):
    pairs = [Pair(before=row(before), after=row(after)) for _, before, after, *_ in DIFFERENT]
    assert list(compare_code(pairs, sandbox)) == list(compare_code(pairs, sandbox))


def test_foreign_code_cannot_reach_this_machine(sandbox, tmp_path):
    evil = f"def f(n):\n    open({str(tmp_path / 'x')!r}, 'w').write('x')\n    return 1\n"
    compare(sandbox, evil, evil)
    assert not (tmp_path / "x").exists()


def test_sums_and_rates(sandbox):
    pairs = [Pair(before=row(b), after=row(a)) for _, b, a, *_ in SAME[:3] + DIFFERENT[:2]]
    summary = summarise(compare_code(pairs, sandbox))
    assert (summary.texts.same, summary.texts.different) == (3, 2)
    rate = summary.functions.kept
    assert (rate.successes, rate.trials, rate.share) == (3, 5, 0.6)
    assert 0 < rate.low < 0.6 < rate.high < 1
    # The first pair's functions have one tree: it says nothing about changed ones.
    assert summary.changed_functions.kept.trials == 4
