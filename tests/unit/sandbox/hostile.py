"""Hostile programs, each with the verdicts that contain it.

A program that succeeds in what it must not do runs to its end and would be `passed`; each
asserts what it tried to reach, so that `passed` in the table means "tried and got nothing".
"""

from typing import NamedTuple


class Attack(NamedTuple):
    """One hostile program."""

    name: str
    source: str
    verdicts: str
    """Allowed verdicts, separated by spaces."""
    reason: str = ""
    """What the reason must hold."""


def _refused(name: str, statements: str, error: str) -> Attack:
    """A program whose last statement must raise `error`."""
    return Attack(name, statements, "error", error)


NAMES = "import ctypes, os, signal, socket, subprocess, sys, threading, time\n"

CALL = (
    NAMES + "libc = ctypes.CDLL(None, use_errno=True)\n"
    "def call(*numbers):\n"
    "    return libc.syscall(*(ctypes.c_long(number) for number in numbers))\n"
)

TAKE_OVER = """
import gc, sys, os
for frame in list(sys._current_frames().values()):
    while frame is not None:
        for name in list(frame.f_locals):
            if callable(frame.f_locals[name]) and name in ("leave", "write"):
                pass
        frame = frame.f_back
os._exit(0)
"""

RESOURCES = [
    Attack(
        "fork bomb", NAMES + "while True:\n  try: os.fork()\n  except OSError: pass", "time-out"
    ),
    Attack(
        "fork bomb that sleeps",
        NAMES + "n = 0\ntry:\n  while True:\n    if os.fork() == 0: time.sleep(60)\n    n += 1\n"
        "except BlockingIOError: pass\nassert n <= 12, n",
        "passed",
    ),
    Attack(
        "thread bomb",
        NAMES + "while True: threading.Thread(target=time.sleep, args=(60,)).start()",
        "error",
        "can't start new thread",
    ),
    Attack("memory at once", "block = bytearray(10**10)", "memory"),
    Attack(
        "memory bit by bit", "blocks = []\nwhile True: blocks.append(bytearray(10**6))", "memory"
    ),
    Attack("huge integer", "number = 9 ** 9 ** 9", "time-out memory"),
    Attack("huge text", "text = 'a' * 10**11", "memory"),
    Attack(
        "disk in one file",
        "with open('big', 'wb') as file:\n  while True: file.write(b'0' * 10**6)",
        "error",
        "OSError",
    ),
    Attack(
        "disk in many files",
        "n = 0\nwhile True:\n  open(f'f{n}', 'wb').write(b'0' * 10**5)\n  n += 1",
        "error",
        "No space left",
    ),
    Attack(
        "many empty files",
        "n = 0\nwhile True:\n  open(f'f{n}', 'wb').close()\n  n += 1",
        "error",
        "No space left",
    ),
    Attack(
        "open files", "files = []\nwhile True: files.append(open('/dev/null'))", "error", "Too many"
    ),
    Attack("endless output", "while True: print('x' * 1000)", "error", "bytes of output"),
    Attack("endless loop", "while True: pass", "time-out"),
    Attack("sleep", "import time\ntime.sleep(600)", "time-out", "asleep"),
    Attack("stopped", NAMES + "os.kill(os.getpid(), signal.SIGSTOP)", "time-out", "real time"),
    Attack(
        "waits for input", "import sys\nassert sys.stdin.read() == ''\ninput()", "error", "EOFError"
    ),
    Attack("regex bomb", "import re\nre.match(r'(a+)+$', 'a' * 60 + 'b')", "time-out"),
    Attack("deep recursion", "def f(): f()\nf()", "error", "RecursionError"),
    Attack(
        "recursion without limit",
        "import sys\nsys.setrecursionlimit(10**9)\ndef f(): f()\nf()",
        "memory error time-out",
    ),
    Attack("deeply nested source", "(" * 10**5 + ")" * 10**5, "error memory"),
    Attack(
        "ignores the processor limit",
        NAMES + "signal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
        "time-out",
    ),
    Attack(
        "ignores SIGTERM",
        NAMES + "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: pass",
        "time-out",
    ),
    _refused(
        "raises its limits",
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (2**40, 2**40))",
        "ValueError",
    ),
    Attack("unnamed memory file", CALL + "assert call(319, 0, 0) == -1, 'memfd'", "passed"),
    Attack("segfault", "import ctypes\nctypes.string_at(0)", "error", "SIGSEGV"),
    Attack("abort", NAMES + "os.abort()", "error", "SIGABRT"),
]

HOST = [
    _refused("reads /etc/passwd", "open('/etc/passwd').read()", "FileNotFoundError"),
    _refused("reads /root", "import os\nos.listdir('/root/.ssh')", "FileNotFoundError"),
    _refused("reads /home", "import os\nos.listdir('/home')", "FileNotFoundError"),
    _refused("reads /proc", "open('/proc/self/maps').read()", "FileNotFoundError"),
    _refused("reads /sys", "import os\nos.listdir('/sys')", "FileNotFoundError"),
    _refused("writes to the root", "open('/mark', 'w')", "Read-only file system"),
    _refused(
        "writes to the standard library",
        "import os\nopen(os.__file__ + '.mark', 'w')",
        "Read-only file system",
    ),
    _refused("changes the standard library", "import os\nopen(os.__file__, 'a')", "os.py"),
    _refused("writes to /dev", "open('/dev/mark', 'w')", "Read-only file system"),
    _refused(
        "symbolic link out",
        "import os\nos.symlink('/../../../etc/passwd', 'link')\nopen('link').read()",
        "FileNotFoundError",
    ),
    _refused(
        "up and out",
        "import os\nfor _ in range(50): os.chdir('..')\nopen('etc/passwd')",
        "FileNotFoundError",
    ),
    _refused("chroot", "import os\nos.chroot('/tmp')", "PermissionError"),
    _refused(
        "device node", "import os, stat\nos.mknod('disk', stat.S_IFBLK, 0xfe00)", "Permission"
    ),
    _refused("set user id", "import os\nos.setuid(0)", "PermissionError"),
    _refused(
        "changes owner", "import os\nopen('f', 'w').close()\nos.chown('f', 0, 0)", "Permission"
    ),
    Attack(
        "mount", CALL + "assert libc.mount(b'none', b'/tmp', b'tmpfs', 0, None) == -1", "passed"
    ),
    Attack("unmount", CALL + "assert libc.umount2(b'/tmp', 2) == -1", "passed"),
    Attack("unshare", CALL + "assert libc.unshare(0x10000000) == -1", "passed"),
    Attack(
        "clone into a user namespace", CALL + "assert call(56, 0x10000011, 0, 0, 0) == -1", "passed"
    ),
    Attack("pivot_root", CALL + "assert libc.syscall(155, b'.', b'.') == -1", "passed"),
    Attack("keys", CALL + "assert call(248, 0, 0, 0, 0, 0) == -1", "passed"),
    Attack("bpf", CALL + "assert call(321, 0, 0, 0) == -1", "passed"),
    Attack("performance events", CALL + "assert call(298, 0, 0, 0, 0, 0) == -1", "passed"),
    Attack("io_uring", CALL + "assert call(425, 8, 0) == -1", "passed"),
    Attack("userfaultfd", CALL + "assert call(323, 0) == -1", "passed"),
    Attack(
        "reboot", CALL + "assert call(169, 0xfee1dead, 672274793, 0x1234567, 0) == -1", "passed"
    ),
    Attack("shared memory of others", CALL + "assert call(29, 1, 4096, 0o1666) == -1", "passed"),
    Attack("undoes no-new-privileges", CALL + "assert libc.prctl(4, 1, 0, 0, 0) == -1", "passed"),
    Attack("32-bit system calls", CALL + "assert call(0x40000000 + 41, 2, 1, 0) == -1", "passed"),
    _refused("socket", "import socket\nsocket.socket()", "PermissionError"),
    _refused("unix socket", "import socket\nsocket.socket(socket.AF_UNIX)", "PermissionError"),
    _refused(
        "loopback",
        "import socket\nsocket.create_connection(('127.0.0.1', 22), timeout=1)",
        "Error",
    ),
    _refused("execv", "import os, sys\nos.execv(sys.executable, ['python'])", "Error"),
    _refused("shell", "import subprocess\nsubprocess.run('id', shell=True, check=True)", "Error"),
    Attack(
        "environment",
        "import os\nassert set(os.environ) == {'HOME', 'LANG'}, sorted(os.environ)",
        "passed",
    ),
    Attack(
        "inherited descriptors",
        "import os, stat\nkinds = []\nfor number in range(3, 4096):\n"
        "  try: kinds.append(os.fstat(number).st_mode)\n  except OSError: pass\n"
        "assert len(kinds) <= 2 and all(stat.S_ISFIFO(kind) for kind in kinds), kinds",
        "passed",
    ),
    Attack(
        "who and where",
        "import os, socket\nassert os.getuid() == 1000 and os.getpid() < 10\n"
        "assert socket.gethostname() == 'sandbox' and os.listdir('.') == []",
        "passed",
    ),
    Attack(
        "modules of the caller",
        "import sys\nassert not [m for m in sys.modules if 'torch' in m or 'site' in m]\n"
        "assert not any('site-packages' in path for path in sys.path)",
        "passed",
    ),
    Attack("site-packages", "import torch", "error", "ModuleNotFoundError"),
]

PROCESSES = [
    Attack(
        "signals the first process", NAMES + "os.kill(1, signal.SIGKILL)\nos.kill(1, 15)", "passed"
    ),
    Attack(
        "has the first process end all",
        NAMES + "os.kill(1, signal.SIGUSR1)\ntime.sleep(600)",
        "error",
        "its first process died",
    ),
    Attack("signals everyone", NAMES + "os.kill(-1, signal.SIGKILL)", "error", "No such process"),
    Attack("signals its group", NAMES + "os.killpg(0, signal.SIGKILL)", "error", "SIGKILL"),
    _refused("signals a host's process", NAMES + "os.kill(HOST_PROCESS, 0)", "ProcessLookupError"),
    _refused("signals its parent's parent", NAMES + "os.kill(os.getppid() + 10**5, 9)", "Error"),
    Attack("ptrace", CALL + "assert libc.ptrace(16, 1, 0, 0) == -1", "passed"),
    Attack(
        "reads the first process's memory",
        CALL + "assert call(310, 1, 0, 0, 0, 0, 0) == -1 and call(311, 1, 0, 0, 0, 0, 0) == -1",
        "passed",
    ),
    Attack(
        "takes the first process's descriptors", CALL + "assert call(438, 3, 0, 0) == -1", "passed"
    ),
    Attack("limits the first process", CALL + "assert call(302, 1, 0, 0, 0) == -1", "passed"),
    Attack(
        "daemon",
        NAMES + "if os.fork() == 0:\n  signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "  os.close(0); os.close(1); os.close(2)\n  if os.fork() == 0: time.sleep(600)\n"
        "  os._exit(0)",
        "passed",
    ),
    Attack(
        "busy daemon",
        NAMES + "if os.fork() == 0:\n  while True: pass\ntime.sleep(0.2)",
        "passed time-out",
    ),
]

CHEATS = [
    Attack("sys.exit", "import sys\nsys.exit(0)", "error", "SystemExit"),
    Attack("os._exit", "import os\nos._exit(0)", "error", "before its last line"),
    Attack("raises SystemExit in a hook", "raise SystemExit", "error", "SystemExit"),
    Attack("kills itself", NAMES + "os.kill(os.getpid(), 9)", "error", "SIGKILL"),
    Attack(
        "exits in a thread",
        NAMES + "threading.Thread(target=lambda: os._exit(0)).start()\ntime.sleep(5)",
        "error",
        "before its last line",
    ),
    Attack(
        "exits at the end of an exception",
        "import sys, os\nsys.excepthook = lambda *a: os._exit(0)\nassert False",
        "failed",
    ),
    Attack("at exit", "import atexit, os\natexit.register(os._exit, 0)\nassert False", "failed"),
    Attack(
        "in a finalizer",
        "import os\nclass A:\n  def __del__(self): os._exit(0)\nkept = A()\nassert False",
        "failed",
    ),
    Attack(
        "patched exits and writes",
        "import os, sys, builtins\nos._exit = os.write = os.read = lambda *a: 0\n"
        "sys.exit = builtins.exit = print\nassert False",
        "failed",
    ),
    Attack(
        "patched AssertionError",
        "import builtins\nbuiltins.AssertionError = type('Fine', (BaseException,), {})\nassert False",
        "failed",
    ),
    Attack(
        "patched isinstance and type",
        "import builtins\nbuiltins.isinstance = lambda *a: True\nbuiltins.type = int\nassert False",
        "failed",
    ),
    Attack("patched streams", "import sys\nsys.stdout = sys.stderr = None\nassert False", "failed"),
    Attack(
        "hostile text of an exception",
        "import os\nclass E(Exception):\n  def __str__(self): os._exit(0)\nraise E",
        "error",
    ),
    Attack(
        "hostile name of an exception",
        "import os\nclass M(type):\n  @property\n  def __name__(cls): os._exit(0)\n"
        "class E(Exception, metaclass=M): pass\nraise E",
        "error",
    ),
    Attack(
        "writes to every descriptor",
        "import os\nfor n in range(3, 100):\n  try: os.write(n, b'P' + b'0' * 16)\n"
        "  except OSError: pass\nos._exit(0)",
        "error",
    ),
    Attack("closes every descriptor", "import os\nos.closerange(0, 100)", "error passed"),
    Attack("walks the frames and leaves", TAKE_OVER, "error", "before its last line"),
    Attack(
        "returns from a forked child",
        "import os\nif os.fork() == 0: pass\nelse: os._exit(0)",
        "error",
    ),
    Attack("null byte", "a = 1\0", "error", "null bytes"),
    Attack("lone surrogate", "a = '\udc80'", "error", "UnicodeEncodeError"),
    Attack("megabytes of source", "a = 1\n" * 300_000, "passed memory time-out"),
    Attack("bytes that are no text", "import os\nos.write(1, b'\\xff\\xfe\\x00')", "passed"),
]

ATTACKS = RESOURCES + HOST + PROCESSES + CHEATS
