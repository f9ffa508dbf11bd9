"""The system calls that a program may make: a list of what is allowed, and all else refused.

A seccomp filter in classic BPF, written by hand: no library. What is not in the table
answers EPERM: sockets (but for pairs), ptrace, reading another process's memory, mounts,
namespaces, keys, BPF, io_uring, performance events, executing another program,
unnamed memory files. Sources: seccomp(2), the kernel's asm/unistd_64.h and
asm-generic/unistd.h (numbers), linux/bpf_common.h (operations).
"""

import errno
import platform
import struct

ARCHITECTURES = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
"""Machine -> AUDIT_ARCH word of linux/audit.h, and the column of the table below."""

_TABLE = """
access 21 -; alarm 37 -; arch_prctl 158 -; brk 12 214; capget 125 90; chdir 80 49; chmod 90 -;
clock_getres 229 114; clock_gettime 228 113; clock_nanosleep 230 115; close 3 57; close_range
436 436; copy_file_range 326 285; creat 85 -; dup 32 23; dup2 33 -; dup3 292 24; epoll_create
213 -; epoll_create1 291 20; epoll_ctl 233 21; epoll_pwait 281 22; epoll_pwait2 441 441;
epoll_wait 232 -; eventfd 284 -; eventfd2 290 19; exit 60 93; exit_group 231 94; faccessat 269
48; faccessat2 439 439; fallocate 285 47; fchdir 81 50; fchmod 91 52; fchmodat 268 53; fcntl 72
25; fdatasync 75 83; flock 73 32; fork 57 -; fstat 5 80; fstatfs 138 44; fsync 74 82; ftruncate
77 46; futex 202 98; futimesat 261 -; get_robust_list 274 100; getcpu 309 168; getcwd 79 17;
getdents64 217 61; getegid 108 177; geteuid 107 175; getgid 104 176; getgroups 115 158;
getitimer 36 102; getpeername 52 205; getpgid 121 155; getpgrp 111 -; getpid 39 172; getppid 110
173; getpriority 140 141; getrandom 318 278; getresgid 120 150; getresuid 118 148; getrlimit 97
163; getrusage 98 165; getsid 124 156; getsockname 51 204; getsockopt 55 209; gettid 186 178;
gettimeofday 96 169; getuid 102 174; link 86 -; linkat 265 37; lseek 8 62; lstat 6 -; madvise 28
233; membarrier 324 283; mincore 27 232; mkdir 83 -; mkdirat 258 34; mmap 9 222; mprotect 10
226; mremap 25 216; msync 26 227; munmap 11 215; nanosleep 35 101; newfstatat 262 79; open 2 -;
openat 257 56; pause 34 -; pipe 22 -; pipe2 293 59; poll 7 -; ppoll 271 73; pread64 17 67;
preadv 295 69; pselect6 270 72; pwrite64 18 68; pwritev 296 70; read 0 63; readlink 89 -;
readlinkat 267 78; readv 19 65; recvfrom 45 207; recvmsg 47 212; rename 82 -; renameat 264 38;
renameat2 316 276; restart_syscall 219 128; rmdir 84 -; rseq 334 293; rt_sigaction 13 134;
rt_sigpending 127 136; rt_sigprocmask 14 135; rt_sigreturn 15 139; rt_sigsuspend 130 133;
rt_sigtimedwait 128 137; sched_get_priority_max 146 125; sched_get_priority_min 147 126;
sched_getaffinity 204 123; sched_getparam 143 121; sched_getscheduler 145 120; sched_yield 24
124; select 23 -; sendfile 40 71; sendmsg 46 211; sendto 44 206; set_robust_list 273 99;
set_tid_address 218 96; setitimer 38 103; setrlimit 160 164; setsockopt 54 208; shutdown 48 210;
sigaltstack 131 132; socketpair 53 199; stat 4 -; statfs 137 43; statx 332 291; symlink 88 -;
symlinkat 266 36; sysinfo 99 179; time 201 -; timerfd_create 283 85; timerfd_gettime 287 87;
timerfd_settime 286 86; times 100 153; truncate 76 45; umask 95 166; uname 63 160; unlink 87 -;
unlinkat 263 35; utime 132 -; utimensat 280 88; utimes 235 -; vfork 58 -; wait4 61 260; waitid
247 95; write 1 64; writev 20 66
"""
"""Name, number on x86_64, number on aarch64 ("-": not there)."""

_SIGNALS = {"kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131)}
_CLONE, _CLONE3 = (56, 220), (435, 435)
_IOCTL, _PRCTL, _PRLIMIT = (16, 29), (157, 167), (302, 261)

_NAMESPACE_FLAGS = 0x7E020000 | 0x00000080
"""Every CLONE_NEW flag, CLONE_NEWTIME included."""

_TERMINAL_REQUESTS = (0x5412, 0x541C)
"""TIOCSTI and TIOCLINUX, which type into someone's terminal."""

_PRCTL_ALLOWED = (15, 16, 21, 39, 0x53564D41)
"""Set and get a thread's name, get the filter's mode and no-new-privileges, name memory."""

_LOAD, _EQUAL, _ANY_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER_AT, _ARCHITECTURE_AT, _FIRST_ARGUMENT_AT, _SECOND_ARGUMENT_AT = 0, 4, 16, 24
"""Byte offsets in struct seccomp_data; arguments are read by their low 32 bits."""


def _step(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("HBBI", code, if_true, if_false, value)


def _refusal(number: int) -> bytes:
    return _step(_RETURN, _ERROR | number)


def _only_when(number: int, body: bytes) -> bytes:
    """`body`, which must end in a return, for one system call."""
    return _step(_EQUAL, number, 0, len(body) // 8) + body


def _one_of(argument_at: int, values: tuple[int, ...], found: bytes, otherwise: bytes) -> bytes:
    """Return `found` if the argument is one of `values`, else `otherwise`: one step each."""
    tests = b"".join(_step(_EQUAL, value, 0, 1) + found for value in values)
    return _step(_LOAD, argument_at) + tests + otherwise


def is_known(machine: str) -> bool:
    """Whether this machine's system calls are in the table."""
    return machine in ARCHITECTURES


def filter_program(machine: str | None = None, *, signals: bool = True) -> bytes:
    """The filter as the kernel wants it: 8 bytes a step.

    `signals`: whether processes may signal each other, harmless only inside a
    process namespace of their own.

    Raises:
        KeyError: a machine that is not in the table.
    """
    architecture, column = ARCHITECTURES[machine or platform.machine()]
    allow, refuse = _step(_RETURN, _ALLOW), _refusal(errno.EPERM)
    rows = [row.split() for row in _TABLE.replace("\n", " ").split(";")]
    numbers = [int(row[1 + column]) for row in rows if row[1 + column] != "-"]
    if signals:
        numbers += [numbers_of[column] for numbers_of in _SIGNALS.values()]
    special = {
        _CLONE: _step(_LOAD, _FIRST_ARGUMENT_AT)
        + _step(_ANY_BIT, _NAMESPACE_FLAGS, 0, 1)
        + refuse
        + allow,
        # "No such call" makes the C library fall back on clone, whose flags can be read.
        _CLONE3: _refusal(errno.ENOSYS),
        _IOCTL: _one_of(_SECOND_ARGUMENT_AT, _TERMINAL_REQUESTS, refuse, allow),
        _PRCTL: _one_of(_FIRST_ARGUMENT_AT, _PRCTL_ALLOWED, allow, refuse),
        # One's own limits only: they can only be lowered.
        _PRLIMIT: _one_of(_FIRST_ARGUMENT_AT, (0,), allow, refuse),
    }
    steps = _step(_LOAD, _ARCHITECTURE_AT) + _step(_EQUAL, architecture, 1, 0)
    steps += _step(_RETURN, _KILL) + _step(_LOAD, _NUMBER_AT)
    steps += b"".join(_only_when(number, allow) for number in sorted(numbers))
    steps += b"".join(_only_when(pair[column], body) for pair, body in special.items())
    return steps + refuse
