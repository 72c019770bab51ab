"""Runs one job of a reply's code and gives up every right that it does not need. Started by `sandbox.py`, by path: it
imports the standard library alone. See there for what is guaranteed.

The working directory has `job.json`: {"code", "calls": [expression], "cpu_seconds", "memory_bytes", "file_bytes"}. With
calls, the code runs once and each expression's `repr` is added to the file `results`, one JSON line each; without, the
code is a program.
"""

import ctypes
import json
import os
import platform
import resource
import signal
import struct
import sys

_PDEATHSIG, _NO_NEW_PRIVS, _SECCOMP, _FILTER = 1, 38, 22, 2
_LANDLOCK = (444, 445, 446)  # create_ruleset, add_rule, restrict_self: the same everywhere
_READ = 1 << 0 | 1 << 2 | 1 << 3  # execute (shared libraries), read files, list directories

# What code that computes something never calls: sockets, new processes and threads, other programs, signals to others,
# leaving the process group, looking into other processes, outliving the grader, and ways around this filter.
_X86_64 = [41, 42, 43, 44, 49, 50, 53, 56, 57, 58, 59, 62, 101, 109, 112, 129, 157, 165, 200, 234, 248, 249, 250, 272]
_X86_64 += [297, 298, 308, 310, 311, 321, 322, 424, 425, 434, 435]
_ARM64 = [198, 199, 200, 201, 202, 203, 206, 220, 221, 129, 130, 131, 117, 154, 157, 138, 167, 40, 97, 270, 271, 281]
_ARM64 += [280, 217, 218, 219, 240, 241, 268, 424, 425, 434, 435]
# Others' turns, priorities, cores and memory: sched_setparam, sched_setscheduler, sched_setaffinity, sched_setattr,
# setpriority, ioprio_set, migrate_pages, move_pages. And open_by_handle_at, which goes around the rights to folders.
_X86_64 += [142, 144, 203, 314, 141, 251, 256, 279, 304]
_ARM64 += [118, 119, 122, 274, 140, 30, 238, 239, 265]


class _Machine:
    """Numbers of calls. prlimit64: refused unless it is about the caller. fcntl: refused where it names who gets the
    signals of a file."""

    def __init__(self, audit: int, denied: list, prlimit64: int, fcntl: int, capset: int) -> None:
        self.audit, self.denied, self.prlimit64, self.fcntl, self.capset = audit, denied, prlimit64, fcntl, capset


_MACHINES = {
    "x86_64": _Machine(0xC000003E, _X86_64, prlimit64=302, fcntl=72, capset=126),
    "aarch64": _Machine(0xC00000B7, _ARM64, prlimit64=261, fcntl=25, capset=91),
}
_SET_OWNER = (8, 15)  # F_SETOWN, F_SETOWN_EX
_CAPABILITIES = 0x20080522  # the version of capset's structures
_READ_SEARCH = 1 << 2  # CAP_DAC_READ_SEARCH: root may run a Python that lies in another user's folder


def limit(job: dict) -> None:
    """Limits that every Unix has, and that cannot be raised again."""
    for what, most in (
        (resource.RLIMIT_CPU, job["cpu_seconds"]),
        (resource.RLIMIT_AS, job["memory_bytes"]),
        (resource.RLIMIT_FSIZE, job["file_bytes"]),
        (resource.RLIMIT_NOFILE, 64),
        (resource.RLIMIT_NPROC, 0),  # the filter says it better; this says it to unprivileged users without one
        (resource.RLIMIT_CORE, 0),
    ):
        try:
            hard = resource.getrlimit(what)[1]
            most = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.setrlimit(what, (most, most))
        except (ValueError, OSError):
            pass  # macOS knows no limit of address space


def confine() -> None:
    """What Linux can forbid to a process by its own wish, without privileges."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PDEATHSIG, signal.SIGKILL, 0, 0, 0)  # the grader's death is this process's
    libc.prctl(_NO_NEW_PRIVS, 1, 0, 0, 0)
    _files(libc)
    machine = _MACHINES.get(platform.machine())
    if machine is not None:
        _privileges(libc, machine)
        _calls(libc, machine)


def _files(libc: ctypes.CDLL) -> None:
    """Landlock: read the standard library and its shared libraries, write in the working directory, nothing else."""
    version = libc.syscall(_LANDLOCK[0], None, 0, 1)
    if version < 1:
        return
    everything = (1 << min(13 + (version >= 2) + (version >= 3), 15)) - 1
    attributes = struct.pack("Q", everything)
    rules = libc.syscall(_LANDLOCK[0], attributes, len(attributes), 0)
    library = os.path.dirname(os.__file__)
    for path, access in [(".", everything), *((each, _READ) for each in (library, "/usr/lib", "/lib", "/lib64"))]:
        try:
            opened = os.open(path, os.O_PATH)
        except OSError:
            continue
        libc.syscall(_LANDLOCK[1], rules, 1, struct.pack("=Qi", access, opened), 0)
        os.close(opened)
    libc.syscall(_LANDLOCK[2], rules, 0)
    os.close(rules)


def _privileges(libc: ctypes.CDLL, machine: _Machine) -> None:
    """Root's code can no longer raise its limits, reboot, mount, set the clock, or load modules."""
    head = struct.pack("Ii", _CAPABILITIES, 0)
    libc.syscall(machine.capset, head, struct.pack("6I", _READ_SEARCH, _READ_SEARCH, 0, 0, 0, 0))


def _calls(libc: ctypes.CDLL, machine: _Machine) -> None:
    """seccomp: the calls above fail with EPERM."""
    load, equal, at_least, answer = 0x20, 0x15, 0x35, 0x06
    allow, kill, refuse = 0x7FFF0000, 0x80000000, 0x00050000 | 1
    first, second = 16, 24  # where a call's arguments are, of which the lower halves count
    program = [(load, 0, 0, 4), (equal, 1, 0, machine.audit), (answer, 0, 0, kill), (load, 0, 0, 0)]
    program += [(at_least, 0, 1, 0x40000000), (answer, 0, 0, refuse)]  # x32's numbers for the same calls
    for number in machine.denied:
        program += [(equal, 0, 1, number), (answer, 0, 0, refuse)]
    program += [(equal, 0, 4, machine.prlimit64), (load, 0, 0, first)]
    program += [(equal, 1, 0, 0), (answer, 0, 0, refuse), (answer, 0, 0, allow)]
    program += [(equal, 0, 2 * len(_SET_OWNER) + 2, machine.fcntl), (load, 0, 0, second)]
    for command in _SET_OWNER:
        program += [(equal, 0, 1, command), (answer, 0, 0, refuse)]
    program.append((answer, 0, 0, allow))  # of fcntl
    program.append((answer, 0, 0, allow))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    head = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    libc.prctl(_SECCOMP, _FILTER, ctypes.c_char_p(head), 0, 0)


def main() -> None:
    with open("job.json", encoding="utf-8") as file:
        job = json.load(file)
    results = os.open("results", os.O_WRONLY | os.O_CREAT, 0o600)
    limit(job)
    if sys.platform == "linux":
        confine()
    space: dict = {"__name__": "__main__"}
    exec(compile(job["code"], "reply.py", "exec"), space)
    for expression in job["calls"]:
        try:
            value = repr(eval(expression, space))
        except Exception:
            value = ""  # nothing equals it
        os.write(results, json.dumps(value).encode() + b"\n")
    sys.stdout.flush()
    os._exit(0)  # nothing that the code left to be done at the end


if __name__ == "__main__":
    main()
