//! The strict pod itself: what it refuses and what it leaves, seen from inside by the shell.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use cooper_tests::machine::Need;
use cooper_tests::pod::Pod;
use cooper_tests::suite::{self, Case, case};

fn main() -> ExitCode {
    let cases = vec![
        case("identity", &[Need::Pod], identity),
        case("exit codes and signals pass through", &[Need::Pod], exit_codes),
        refused("mounting", "mount -t tmpfs none $HOME"),
        refused("a user namespace", "unshare --user true"),
        refused("a mount namespace", "unshare --mount true"),
        refused("changing the root", "chroot / true"),
        refused("a device node", "mknod $HOME/null c 1 3"),
        refused("giving a file away", "touch $HOME/f && chown 0 $HOME/f"),
        refused("writing to the root", "touch /x"),
        refused("writing to /tmp", "touch /tmp/x"),
        refused("writing to /dev", "touch /dev/x"),
        refused("writing to /proc/sys", "echo 1 >/proc/sys/kernel/panic"),
        allowed("writing to HOME", "echo x >$HOME/f && test \"$HOME\" = \"$TMPDIR\""),
        allowed("writing to /dev/shm", "echo x >/dev/shm/x"),
        allowed("a fifo", "mkfifo $HOME/fifo"),
        allowed("the device nodes", "echo x >/dev/null && head -c 4 /dev/urandom >/dev/zero"),
        allowed("reading the root", "test -r /etc/passwd"),
    ];
    suite::main("pod", cases)
}

fn identity() -> Result<()> {
    let script = "id -u; id -g; id -G; echo $$; grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status";
    let out = Pod::new()?.run(["sh", "-c", script])?.ok()?.text();
    let none = "0000000000000000";
    let mut wanted = vec!["65534".to_owned(), "65534".to_owned(), "65534".to_owned(), "1".to_owned()];
    wanted.extend(["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"].map(|set| format!("{set}:\t{none}")));
    wanted.extend(["NoNewPrivs:\t1".to_owned(), "Seccomp:\t2".to_owned()]);
    ensure!(out.lines().eq(wanted.iter().map(String::as_str)), "{out}");
    Ok(())
}

fn exit_codes() -> Result<()> {
    let pod = Pod::new()?;
    pod.run(["sh", "-c", "exit 7"])?.exits(7)?;
    pod.run(["sh", "-c", "sh -c 'kill -KILL $$'; exit $?"])?.exits(137)?;
    pod.run(["no-such-program"])?.exits(125)?;
    Ok(())
}

fn refused(what: &str, script: &'static str) -> Case {
    case(format!("refused: {what}"), &[Need::Pod], move || {
        let out = Pod::new()?.run(["sh", "-c", script])?;
        ensure!(out.code != 0, "it was allowed\n{out:?}");
        Ok(())
    })
}

fn allowed(what: &str, script: &'static str) -> Case {
    case(format!("allowed: {what}"), &[Need::Pod], move || {
        Pod::new()?.run(["sh", "-c", script])?.ok().map(drop)
    })
}
