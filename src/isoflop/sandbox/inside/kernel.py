"""System calls that Python 3.11 has no names for, through the C library.

Numbers and flags are from the kernel's uapi headers (sched.h, mount.h, prctl.h,
capability.h); every function raises OSError with the call's name where the kernel refuses.
"""

import ctypes
import os
import platform

NEW_MOUNT = 0x00020000
NEW_UTS = 0x04000000
NEW_IPC = 0x08000000
NEW_USER = 0x10000000
NEW_PID = 0x20000000
NEW_NET = 0x40000000

MOUNT_READ_ONLY = 0x1
MOUNT_NO_SUID = 0x2
MOUNT_NO_DEVICES = 0x4
MOUNT_NO_EXEC = 0x8
MOUNT_REMOUNT = 0x20
MOUNT_BIND = 0x1000
MOUNT_RECURSIVE = 0x4000
MOUNT_PRIVATE = 0x40000
UNMOUNT_DETACH = 0x2

PR_SET_DEATH_SIGNAL = 1
PR_SET_DUMPABLE = 4
PR_GET_SECCOMP = 21
PR_SET_SECCOMP = 22
PR_DROP_BOUND = 24
PR_SET_SECUREBITS = 28
PR_SET_SUBREAPER = 36
PR_SET_NO_NEW_PRIVILEGES = 38
PR_GET_NO_NEW_PRIVILEGES = 39
PR_AMBIENT = 47
PR_AMBIENT_CLEAR = 4
SECCOMP_MODE_FILTER = 2

SECURE_NO_ROOT_LOCKED = 0x2F
"""NOROOT, NO_SETUID_FIXUP and KEEP_CAPS off, each locked: uid 0 means nothing from here on."""

CAPABILITY_VERSION = 0x20080522
"""Version 3 of the header of capset: two words of 32 bits a set."""

LAST_CAPABILITY = 63
"""Highest bit of a 64-bit set; the kernel says EINVAL above the last that it knows."""

PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
"""Number of the system call, which the C library has no function for."""

MOUNT_SETATTR = 442
"""Number of the system call, the same on every architecture (kernel 5.12)."""

AT_RECURSIVE = 0x8000

_libc = ctypes.CDLL(None, use_errno=True)


def _check(name: str, result: int) -> int:
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def unshare(flags: int) -> None:
    """Leave the shared namespaces named by `flags` for new ones."""
    _check("unshare", _libc.unshare(ctypes.c_int(flags)))


def enter_namespace(descriptor: int, flag: int) -> None:
    """Join the namespace behind a descriptor of /proc/PID/ns."""
    _check("setns", _libc.setns(ctypes.c_int(descriptor), ctypes.c_int(flag)))


def mount(source: str, target: str, kind: str, flags: int, options: str = "") -> None:
    """Mount, bind or remount; see mount(2)."""
    words = [text.encode() for text in (source, target, kind)]
    result = _libc.mount(*words, ctypes.c_ulong(flags), options.encode())
    _check(f"mount {kind or source} at {target}", result)


def make_read_only(target: str) -> None:
    """A mount and all below it: no writing, no set-user-id, no devices."""

    class Attributes(ctypes.Structure):
        _fields_ = [(name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "user")]

    wanted = Attributes(MOUNT_READ_ONLY | MOUNT_NO_SUID | MOUNT_NO_DEVICES, 0, 0, 0)
    result = _libc.syscall(
        ctypes.c_long(MOUNT_SETATTR),
        ctypes.c_int(-1),
        target.encode(),
        ctypes.c_uint(AT_RECURSIVE),
        ctypes.byref(wanted),
        ctypes.c_size_t(ctypes.sizeof(wanted)),
    )
    _check(f"mount_setattr {target}", result)


def pivot_root() -> None:
    """Make the working directory the root, and let go of the old root for good."""
    number = PIVOT_ROOT[platform.machine()]
    _check("pivot_root", _libc.syscall(ctypes.c_long(number), b".", b"."))
    _check("umount2", _libc.umount2(b".", ctypes.c_int(UNMOUNT_DETACH)))
    os.chdir("/")


def control_process(option: int, *values: int) -> int:
    """prctl(2) with plain numbers."""
    padded = [ctypes.c_ulong(value) for value in (*values, 0, 0, 0, 0)[:4]]
    return _check(f"prctl {option}", _libc.prctl(ctypes.c_int(option), *padded))


def drop_capabilities() -> None:
    """All of them, from every set and for good."""
    control_process(PR_SET_NO_NEW_PRIVILEGES, 1)
    control_process(PR_AMBIENT, PR_AMBIENT_CLEAR)
    if capabilities() != 0:
        control_process(PR_SET_SECUREBITS, SECURE_NO_ROOT_LOCKED)
        for capability in range(LAST_CAPABILITY + 1):
            try:
                control_process(PR_DROP_BOUND, capability)
            except OSError:
                break
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    _check("capset", _libc.capset(header, (ctypes.c_uint32 * 6)()))


def capabilities() -> int:
    """Effective and permitted capabilities of this process, as bits; 0 is none."""
    header = (ctypes.c_uint32 * 2)(CAPABILITY_VERSION, 0)
    words = (ctypes.c_uint32 * 6)()
    _check("capget", _libc.capget(header, words))
    low = words[0] | words[1]
    high = words[3] | words[4]
    return int(low | high << 32)


def install_filter(instructions: bytes) -> None:
    """Put a seccomp program, a multiple of 8 bytes, before every system call from here on."""

    class Filter(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_char_p)]

    program = Filter(len(instructions) // 8, instructions)
    result = _libc.prctl(
        ctypes.c_int(PR_SET_SECCOMP),
        ctypes.c_ulong(SECCOMP_MODE_FILTER),
        ctypes.byref(program),
        ctypes.c_ulong(0),
        ctypes.c_ulong(0),
    )
    _check("seccomp", result)
