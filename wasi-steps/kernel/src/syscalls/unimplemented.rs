//! Calls that are always refused, with the error that a container without privileges gets.

use cooper_vfs::{Capabilities, Errno};

use super::{Entry, SysResult, refused};
use crate::cx::Cx;

const NO_RIGHT: &str = "EPERM, as in a container without the capability";
const ABSENT: &str = "ENOSYS, counted";
const OBSOLETE: &str = "ENOSYS: removed from Linux or never there";

/// The calls of this family.
pub(crate) const ENTRIES: &[Entry] = &[
    refused(101, "ptrace", not_permitted, NO_RIGHT),
    refused(103, "syslog", not_permitted, NO_RIGHT),
    refused(134, "uselib", no_call, OBSOLETE),
    refused(136, "ustat", no_call, OBSOLETE),
    refused(139, "sysfs", no_call, OBSOLETE),
    refused(153, "vhangup", not_permitted, NO_RIGHT),
    refused(154, "modify_ldt", no_call, ABSENT),
    refused(155, "pivot_root", not_permitted, NO_RIGHT),
    refused(156, "_sysctl", no_call, OBSOLETE),
    refused(159, "adjtimex", adjust_clock, "EPERM for changes, as in a container; reading is ENOSYS"),
    refused(163, "acct", not_permitted, NO_RIGHT),
    refused(164, "settimeofday", not_permitted, NO_RIGHT),
    refused(165, "mount", not_permitted, NO_RIGHT),
    refused(166, "umount2", not_permitted, NO_RIGHT),
    refused(167, "swapon", not_permitted, NO_RIGHT),
    refused(168, "swapoff", not_permitted, NO_RIGHT),
    refused(169, "reboot", not_permitted, NO_RIGHT),
    refused(170, "sethostname", not_permitted, NO_RIGHT),
    refused(171, "setdomainname", not_permitted, NO_RIGHT),
    refused(172, "iopl", not_permitted, NO_RIGHT),
    refused(173, "ioperm", not_permitted, NO_RIGHT),
    refused(174, "create_module", no_call, OBSOLETE),
    refused(175, "init_module", not_permitted, NO_RIGHT),
    refused(176, "delete_module", not_permitted, NO_RIGHT),
    refused(177, "get_kernel_syms", no_call, OBSOLETE),
    refused(178, "query_module", no_call, OBSOLETE),
    refused(179, "quotactl", not_permitted, NO_RIGHT),
    refused(180, "nfsservctl", no_call, OBSOLETE),
    refused(181, "getpmsg", no_call, OBSOLETE),
    refused(182, "putpmsg", no_call, OBSOLETE),
    refused(183, "afs_syscall", no_call, OBSOLETE),
    refused(184, "tuxcall", no_call, OBSOLETE),
    refused(185, "security", no_call, OBSOLETE),
    refused(205, "set_thread_area", no_call, OBSOLETE),
    refused(206, "io_setup", no_call, ABSENT),
    refused(207, "io_destroy", no_call, ABSENT),
    refused(208, "io_getevents", no_call, ABSENT),
    refused(209, "io_submit", no_call, ABSENT),
    refused(210, "io_cancel", no_call, ABSENT),
    refused(211, "get_thread_area", no_call, OBSOLETE),
    refused(212, "lookup_dcookie", no_call, OBSOLETE),
    refused(214, "epoll_ctl_old", no_call, OBSOLETE),
    refused(215, "epoll_wait_old", no_call, OBSOLETE),
    refused(227, "clock_settime", not_permitted, NO_RIGHT),
    refused(236, "vserver", no_call, OBSOLETE),
    refused(237, "mbind", no_call, ABSENT),
    refused(238, "set_mempolicy", no_call, ABSENT),
    refused(239, "get_mempolicy", no_call, ABSENT),
    refused(240, "mq_open", no_call, ABSENT),
    refused(241, "mq_unlink", no_call, ABSENT),
    refused(242, "mq_timedsend", no_call, ABSENT),
    refused(243, "mq_timedreceive", no_call, ABSENT),
    refused(244, "mq_notify", no_call, ABSENT),
    refused(245, "mq_getsetattr", no_call, ABSENT),
    refused(246, "kexec_load", not_permitted, NO_RIGHT),
    refused(248, "add_key", no_call, "ENOSYS: key rings are not there, as where seccomp hides them"),
    refused(249, "request_key", no_call, "ENOSYS: see add_key"),
    refused(250, "keyctl", no_call, "ENOSYS: see add_key"),
    refused(256, "migrate_pages", no_call, ABSENT),
    refused(279, "move_pages", no_call, ABSENT),
    refused(298, "perf_event_open", not_permitted, NO_RIGHT),
    refused(303, "name_to_handle_at", not_supported, "EOPNOTSUPP, as on file systems without handles"),
    refused(305, "clock_adjtime", adjust_clock, "see adjtimex"),
    refused(308, "setns", not_permitted, NO_RIGHT),
    refused(310, "process_vm_readv", not_permitted, NO_RIGHT),
    refused(311, "process_vm_writev", not_permitted, NO_RIGHT),
    refused(312, "kcmp", no_call, ABSENT),
    refused(313, "finit_module", not_permitted, NO_RIGHT),
    refused(317, "seccomp", invalid, "EINVAL: filters are not run, so none is accepted"),
    refused(320, "kexec_file_load", not_permitted, NO_RIGHT),
    refused(321, "bpf", not_permitted, NO_RIGHT),
    refused(323, "userfaultfd", not_permitted, NO_RIGHT),
    refused(333, "io_pgetevents", no_call, ABSENT),
    refused(334, "rseq", no_call, "ENOSYS: C libraries do without it; not counted"),
    refused(425, "io_uring_setup", not_permitted, "EPERM, as where seccomp refuses it"),
    refused(426, "io_uring_enter", not_permitted, "see io_uring_setup"),
    refused(427, "io_uring_register", not_permitted, "see io_uring_setup"),
    refused(428, "open_tree", not_permitted, NO_RIGHT),
    refused(429, "move_mount", not_permitted, NO_RIGHT),
    refused(430, "fsopen", not_permitted, NO_RIGHT),
    refused(431, "fsconfig", not_permitted, NO_RIGHT),
    refused(432, "fsmount", not_permitted, NO_RIGHT),
    refused(433, "fspick", not_permitted, NO_RIGHT),
    refused(440, "process_madvise", not_permitted, NO_RIGHT),
    refused(442, "mount_setattr", not_permitted, NO_RIGHT),
    refused(443, "quotactl_fd", not_permitted, NO_RIGHT),
    refused(444, "landlock_create_ruleset", not_supported, "EOPNOTSUPP, as where it is not enabled"),
    refused(445, "landlock_add_rule", not_supported, "see landlock_create_ruleset"),
    refused(446, "landlock_restrict_self", not_supported, "see landlock_create_ruleset"),
    refused(447, "memfd_secret", no_call, ABSENT),
    refused(448, "process_mrelease", no_call, ABSENT),
    refused(450, "set_mempolicy_home_node", no_call, ABSENT),
];

/// `ENOSYS`. C libraries probe some of these on every start; only the others count.
fn no_call(cx: &mut Cx<'_>, _: [u64; 6]) -> SysResult {
    /// `rseq` and the memory policies are asked for without need.
    const PROBED: [u64; 2] = [334, 239];
    if !PROBED.contains(&cx.number)
        && let Some(entry) = super::entry(cx.number)
    {
        cx.kernel.count_unimplemented(entry.name);
    }
    Err(Errno::NOSYS.into())
}

fn not_permitted(_: &mut Cx<'_>, _: [u64; 6]) -> SysResult {
    Err(Errno::PERM.into())
}

fn not_supported(_: &mut Cx<'_>, _: [u64; 6]) -> SysResult {
    Err(Errno::OPNOTSUPP.into())
}

/// `EINVAL`.
pub(super) fn invalid(_: &mut Cx<'_>, _: [u64; 6]) -> SysResult {
    Err(Errno::INVAL.into())
}

/// `ENOSPC`.
pub(super) fn no_space(_: &mut Cx<'_>, _: [u64; 6]) -> SysResult {
    Err(Errno::NOSPC.into())
}

fn adjust_clock(cx: &mut Cx<'_>, _: [u64; 6]) -> SysResult {
    let errno = if cx.credentials().holds(Capabilities::SYS_TIME) { Errno::NOSYS } else { Errno::PERM };
    Err(errno.into())
}
