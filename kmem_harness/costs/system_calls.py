"""Say of every system call of a machine of ours what becomes of it: a class for each. Data.

Those that make kernel objects are in ``kinds.py``, charged or with the reason why not. The rest is here:
what changes an object without a call that could be refused, and what leaves nothing behind. A test
compares this with the kernel's headers. Source: include/uapi/asm-generic/unistd.h and
arch/x86/entry/syscalls/syscall_64.tbl (v6.16).
"""

from __future__ import annotations

from kmem_harness.costs.kinds import BOUNDED, SYSCALL_KINDS, Modelled

__all__ = ["AT_A_CENSUS", "DENIED", "NOTHING", "class_of"]

#: What these add to or take from an object is found when its process is looked at.
AT_A_CENSUS = frozenset(
    [
        *("brk", "execve", "execveat", "exit", "exit_group", "madvise", "map_shadow_stack"),
        *("mbind", "mlock", "mlock2", "mlockall", "mprotect", "mremap", "mseal", "munlock"),
        *("munlockall", "munmap", "pkey_mprotect", "process_madvise", "remap_file_pages"),
        *("set_mempolicy_home_node", "shmat", "shmdt"),
        *("close", "close_range", "dup", "epoll_ctl_old", "inotify_rm_watch", "io_destroy"),
        *(
            "kill",
            "mq_unlink",
            "msgctl",
            "pidfd_getfd",
            "recvmmsg",
            "recvmsg",
            "semctl",
            "sendmmsg",
        ),
        *("sendmsg", "shmctl", "tgkill", "tkill", "umount2", "wait4", "waitid"),
    ]
)

#: Always refused to a box: they would make objects without a call that could be seen.
DENIED = frozenset(["io_uring_enter", "io_uring_register", "io_uring_setup"])

#: They read or change what there is, move bytes, or wait: when they return, nothing is there that was
#: not before, but for what a file system or a protocol keeps of data, which memory limits are for.
NOTHING = frozenset(
    [
        # Who and what one is.
        *("acct", "arch_prctl", "capget", "capset", "chdir", "chroot", "fchdir", "get_robust_list"),
        *("get_thread_area", "getcwd", "getegid", "geteuid", "getgid", "getgroups", "getpgid"),
        *("getpgrp", "getpid", "getppid", "getpriority", "getresgid", "getresuid", "getrlimit"),
        *("getrusage", "getsid", "gettid", "getuid", "ioperm", "iopl", "ioprio_get", "ioprio_set"),
        *("kcmp", "personality", "prlimit64", "rseq", "set_robust_list", "set_thread_area"),
        *(
            "set_tid_address",
            "setfsgid",
            "setfsuid",
            "setgid",
            "setpgid",
            "setpriority",
            "setregid",
        ),
        *("setresgid", "setresuid", "setreuid", "setrlimit", "setsid", "setuid", "umask"),
        *("lsm_get_self_attr", "lsm_list_modules", "lsm_set_self_attr"),
        # Scheduling, time and waiting.
        *("adjtimex", "alarm", "clock_adjtime", "clock_getres", "clock_gettime"),
        *("clock_nanosleep", "clock_settime", "epoll_pwait", "epoll_pwait2", "epoll_wait"),
        *("epoll_wait_old", "futex", "futex_requeue", "futex_wait", "futex_waitv", "futex_wake"),
        *("getcpu", "getitimer", "gettimeofday", "membarrier", "nanosleep", "pause", "poll"),
        *("ppoll", "pselect6", "restart_syscall", "sched_get_priority_max", "time", "times"),
        *("sched_get_priority_min", "sched_getaffinity", "sched_getattr", "sched_getparam"),
        *("sched_getscheduler", "sched_rr_get_interval", "sched_setaffinity", "sched_setattr"),
        *("sched_setparam", "sched_setscheduler", "sched_yield", "select", "setitimer"),
        *("settimeofday", "timer_delete", "timer_getoverrun", "timer_gettime", "timer_settime"),
        *("timerfd_gettime", "timerfd_settime"),
        # Signals, other processes.
        *("pidfd_send_signal", "process_mrelease", "process_vm_readv", "process_vm_writev"),
        *("ptrace", "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigreturn"),
        *("rt_sigsuspend", "rt_sigtimedwait", "sigaltstack", "uretprobe", "uprobe"),
        # Memory that is there.
        *("cachestat", "get_mempolicy", "migrate_pages", "mincore", "move_pages", "msync"),
        *("pkey_alloc", "pkey_free", "set_mempolicy"),
        # Files and their contents.
        *("chmod", "chown", "copy_file_range", "fadvise64", "fallocate", "fchmod", "fchmodat"),
        *("fchmodat2", "fchown", "fchownat", "fdatasync", "fgetxattr", "file_getattr"),
        *("file_setattr", "flistxattr", "fremovexattr", "fstat", "fstatfs", "fsync"),
        *("ftruncate", "futimesat", "getdents", "getdents64", "getxattr", "getxattrat"),
        *("io_cancel", "io_getevents", "io_pgetevents", "io_submit", "lchown", "lgetxattr"),
        *("listxattr", "listxattrat", "llistxattr", "lremovexattr", "lseek"),
        *("name_to_handle_at", "pread64", "preadv", "preadv2", "pwrite64", "pwritev", "pwritev2"),
        *("quotactl", "quotactl_fd", "read", "readahead", "readv", "removexattr"),
        *("removexattrat", "sendfile", "splice", "statfs", "sync", "sync_file_range", "syncfs"),
        *("tee", "truncate", "utime", "utimensat", "utimes", "vmsplice", "write", "writev"),
        # Sockets and messages that are there; what waits in them is said where they are made.
        *("getpeername", "getsockname", "listen", "mq_getsetattr", "mq_notify"),
        *("mq_timedreceive", "msgrcv", "recvfrom", "semop", "semtimedop", "sendto", "setsockopt"),
        *("shutdown",),
        # The host: a box has no right to these, or they only tell.
        *("delete_module", "finit_module", "init_module", "kexec_file_load", "kexec_load"),
        *("getrandom", "listmount", "lookup_dcookie", "nfsservctl", "pivot_root", "reboot"),
        *("setdomainname", "sethostname", "statmount", "swapoff", "swapon", "sysfs", "sysinfo"),
        *("syslog", "uname", "ustat", "vhangup"),
        # No longer, or never, there.
        *("_sysctl", "afs_syscall", "create_module", "get_kernel_syms", "getpmsg", "putpmsg"),
        *("query_module", "security", "tuxcall", "uselib", "vserver"),
    ]
)


def class_of(name: str) -> str | None:
    """Say what becomes of a call; ``None`` of one that nobody has classified yet."""
    entry = SYSCALL_KINDS.get(name) or BOUNDED.get(name)
    if entry is not None:
        return "modelled" if isinstance(entry, Modelled) else "passed through"
    for known, what in (
        (AT_A_CENSUS, "counted at a census"),
        (DENIED, "denied"),
        (NOTHING, "makes nothing that lasts"),
    ):
        if name in known:
            return what
    return None
