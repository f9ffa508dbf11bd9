"""A worker's own namespaces, its private root, and what a program's process gives up.

Built once a worker: user, process, mount, network, message (ipc) and host-name
namespaces, and a root folder in memory that shows the interpreter's standard library and
shared libraries read-only, nothing else of the host. A program gets, on top of these, a
process, mount and message namespace of its own.
Sources: user_namespaces(7), pid_namespaces(7), mount_namespaces(7), pivot_root(2).
"""

import contextlib
import os
import platform
import resource
import sysconfig
from pathlib import Path
from typing import NoReturn

from isoflop.sandbox.inside import filter as calls
from isoflop.sandbox.inside import kernel

INSIDE_ID = 1000
"""User and group of programs as they see it. Chosen; not 0, so that nothing looks like root."""

STRANGER_ID = 1_900_000_000
"""User and group of programs on the host when the caller is root: chosen so that no account,
file or process has it. Another caller's programs have the caller's own."""

SCRATCH = "/tmp"
"""The only folder a program can write in, in memory, and its working directory."""

ROOT_BYTES = 2**20
"""Size of the root folder in memory, which holds mount points only."""

SCRATCH_FILES = 1024
"""Files and folders in the scratch folder. Chosen."""

OPEN_FILES = 64
"""Descriptors of one process. Chosen."""

SPARE_PROCESSES = 3
"""Processes of the worker itself that count against the program's user."""

NAMESPACES = kernel.NEW_USER | kernel.NEW_PID | kernel.NEW_MOUNT | kernel.NEW_NET
NAMESPACES |= kernel.NEW_IPC | kernel.NEW_UTS


def enter_namespaces() -> None:
    """New namespaces for this process, or for its children in the case of processes.

    Raises:
        OSError: the machine refuses them.
    """
    go_read, go_write = os.pipe()
    done_read, done_write = os.pipe()
    parent = os.getpid()
    # Another process must write the user's mapping: this one, once inside, may no longer.
    helper = os.fork()
    if helper == 0:
        os.close(go_write)
        _map_user_when_told(parent, go_read, done_write)
    os.close(go_read)
    os.close(done_write)
    try:
        kernel.unshare(NAMESPACES)
        os.write(go_write, b"1")
    finally:
        os.close(go_write)
        answer = os.read(done_read, 200)
        os.close(done_read)
        os.waitpid(helper, 0)
    if answer != b"mapped":
        raise OSError(f"the user could not be mapped: {answer.decode(errors='replace')}")


def _map_user_when_told(process: int, go: int, done: int) -> NoReturn:
    """In the old namespaces: say who the user of the new ones is on the host."""
    if os.read(go, 1) == b"1":
        is_root = os.geteuid() == 0
        user = STRANGER_ID if is_root else os.geteuid()
        group = STRANGER_ID if is_root else os.getegid()
        try:
            for name, text in (
                ("setgroups", "deny"),
                ("uid_map", f"{INSIDE_ID} {user} 1"),
                ("gid_map", f"{INSIDE_ID} {group} 1"),
            ):
                Path(f"/proc/{process}/{name}").write_text(text)
            os.write(done, b"mapped")
        except OSError as error:
            os.write(done, str(error).encode())
    os._exit(0)


def library_folders() -> list[str]:
    """Folders of the host that programs see, read-only: standard library and shared libraries."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    mapped = {Path(line.split()[-1]) for line in lines if ".so" in line}
    standard = os.path.realpath(sysconfig.get_path("stdlib", vars={"installed_base": _prefix()}))
    folders = {os.path.realpath(path.parent) for path in mapped if path.is_absolute()}
    outside = {folder for folder in folders if not (folder + "/").startswith(standard + "/")}
    return [standard, *sorted(outside)]


def _prefix() -> str:
    return str(sysconfig.get_config_var("installed_base"))


def build_root() -> None:
    """A root folder in memory with the interpreter in it, in place of the host's.

    The caller is the only process in its namespaces, and root or the mapped user.
    """
    kernel.mount("none", "/", "", kernel.MOUNT_RECURSIVE | kernel.MOUNT_PRIVATE)
    # Opened as who we were, who may pass closed folders above; mounted as the mapped user, who
    # alone can make folders here.
    sources = [(path, os.open(path, os.O_PATH)) for path in [*library_folders(), "/dev/null"]]
    os.setresgid(INSIDE_ID, INSIDE_ID, INSIDE_ID)
    os.setresuid(INSIDE_ID, INSIDE_ID, INSIDE_ID)
    kernel.control_process(kernel.PR_SET_DUMPABLE, 1)
    place = SCRATCH
    flags = kernel.MOUNT_NO_SUID | kernel.MOUNT_NO_DEVICES
    kernel.mount("tmpfs", place, "tmpfs", flags, f"size={ROOT_BYTES},nr_inodes=256,mode=755")
    for path, descriptor in sources:
        _show(descriptor, path, place + path)
        os.close(descriptor)
    for name in ("site-packages", "dist-packages"):
        masked = Path(f"{place}{sources[0][0]}/{name}")
        if masked.is_dir():
            kernel.mount("tmpfs", str(masked), "tmpfs", flags | kernel.MOUNT_READ_ONLY, "size=4k")
    Path(place + SCRATCH).mkdir(parents=True, exist_ok=True)
    os.chdir(place)
    kernel.pivot_root()
    again = kernel.MOUNT_REMOUNT | kernel.MOUNT_BIND | kernel.MOUNT_READ_ONLY
    kernel.mount("none", "/", "", again | flags)


def _show(descriptor: int, path: str, target: str) -> None:
    """Bind what `descriptor` points at to `target`; folders read-only."""
    if path.startswith("/dev/"):
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(target).touch()
    else:
        Path(target).mkdir(parents=True, exist_ok=True)
    link = f"/proc/self/fd/{descriptor}"
    kernel.mount(link, target, "", kernel.MOUNT_BIND | kernel.MOUNT_RECURSIVE)
    if not path.startswith("/dev/"):
        kernel.make_read_only(target)


def mount_scratch(size: int) -> None:
    """This process's own empty scratch folder of `size` bytes."""
    kernel.unshare(kernel.NEW_MOUNT | kernel.NEW_IPC)
    options = f"size={size},nr_inodes={SCRATCH_FILES},mode=700"
    flags = kernel.MOUNT_NO_SUID | kernel.MOUNT_NO_DEVICES | kernel.MOUNT_NO_EXEC
    kernel.mount("tmpfs", SCRATCH, "tmpfs", flags, options)
    os.chdir(SCRATCH)


def set_limits(*, cpu: int, memory: int, processes: int, file: int) -> None:
    """Resource limits of this process and all that it starts, which only can be lowered."""
    for kind, value in (
        (resource.RLIMIT_CPU, cpu),
        (resource.RLIMIT_AS, memory),
        (resource.RLIMIT_NPROC, processes + SPARE_PROCESSES),
        (resource.RLIMIT_FSIZE, file),
        (resource.RLIMIT_NOFILE, OPEN_FILES),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
        (resource.RLIMIT_MSGQUEUE, 0),
    ):
        allowed = resource.getrlimit(kind)[1]
        bound = value if allowed == resource.RLIM_INFINITY else min(value, allowed)
        # One second more for SIGKILL: up to then it is SIGXCPU, which says what it is for.
        resource.setrlimit(kind, (bound, bound + 1 if kind == resource.RLIMIT_CPU else bound))


def give_up_privileges(*, signals: bool) -> None:
    """No capability, none to be gained, and only the system calls of the table."""
    kernel.drop_capabilities()
    if calls.is_known(platform.machine()):
        kernel.install_filter(calls.filter_program(signals=signals))


def measured_layers() -> dict[str, str]:
    """What holds in this very process, tried: layer -> "" if it holds, else why not."""
    found = {"no new privileges": "", "capabilities dropped": "", "system call filter": ""}
    if kernel.control_process(kernel.PR_GET_NO_NEW_PRIVILEGES) != 1:
        found["no new privileges"] = "the kernel does not keep the flag"
    if kernel.capabilities() != 0:
        found["capabilities dropped"] = "the process still has capabilities"
    if not calls.is_known(platform.machine()):
        found["system call filter"] = f"no table of system calls for {platform.machine()}"
    elif kernel.control_process(kernel.PR_GET_SECCOMP) != kernel.SECCOMP_MODE_FILTER:
        found["system call filter"] = "the kernel installed no filter"
    found["process limit"] = _measured_process_limit()
    return found


def _measured_process_limit() -> str:
    """Start more processes than are allowed, and see it refused."""
    allowed = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    children, reason = [], "more processes could be started than allowed"
    read, write = os.pipe()
    for _ in range(allowed + 1):
        try:
            child = os.fork()
        except BlockingIOError:
            reason = ""
            break
        if child == 0:
            os.close(write)
            os.read(read, 1)
            os._exit(0)
        children.append(child)
    os.close(write)
    for child in children:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(child, 0)
    return reason
