//! The typed wrappers against std's view of the same things, on Linux itself.
#![cfg(not(target_family = "wasm"))]
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::io::{Read, Write};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use toolbox_linux::file::{self, Kind, Time};
use toolbox_linux::process::{self, Command, Mask, Status};
use toolbox_linux::{Errno, errno};

fn scratch(name: &str) -> Vec<u8> {
    let path = std::env::temp_dir().join(format!("toolbox-linux-{}-{name}", std::process::id()));
    path.into_os_string().into_encoded_bytes()
}

#[test]
fn stat_has_the_layout_of_the_kernel() {
    let path = scratch("stat");
    file::create(&path).unwrap().write_all(b"hello").unwrap();
    file::chmod(&path, 0o640).unwrap();
    file::utimensat(&path, Time { seconds: 1, nanoseconds: 2 }, Time { seconds: 3, nanoseconds: 4 }, 0)
        .unwrap();
    let (ours, theirs) = (file::stat(&path).unwrap(), std::fs::metadata(process::os_str(&path)).unwrap());
    assert_eq!(ours.kind(), Kind::Regular);
    assert_eq!((ours.mode, ours.size, ours.inode), (0o100_640, 5, theirs.ino()));
    assert_eq!((ours.uid, ours.gid, ours.links), (theirs.uid(), theirs.gid(), theirs.nlink()));
    assert_eq!((ours.accessed.seconds, ours.accessed.nanoseconds), (1, 2));
    assert_eq!((ours.modified.seconds, ours.modified.nanoseconds), (3, 4));
    file::unlink(&path).unwrap();
    assert_eq!(file::stat(&path).unwrap_err(), errno::ENOENT);
}

#[test]
fn devices_keep_their_numbers() {
    let null = file::stat(b"/dev/null").unwrap();
    assert_eq!((null.kind(), file::device_numbers(null.special)), (Kind::Character, (1, 3)));
    assert_eq!(file::device_numbers(file::make_device(0x12345, 0x6789a)), (0x12345, 0x6789a));
}

#[test]
fn directories_are_read_whole() {
    let path = scratch("directory");
    file::mkdir(&path, 0o755).unwrap();
    let name = |number: i32| [&path[..], format!("/{number}").as_bytes()].concat();
    for number in 0..2000 {
        file::symlink(b"nowhere", &name(number)).unwrap();
    }
    let mut names: Vec<i32> = file::read_directory(&path)
        .unwrap()
        .into_iter()
        .map(|entry| String::from_utf8(entry.name).unwrap().parse().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(names, (0..2000).collect::<Vec<_>>());
    std::fs::remove_dir_all(process::os_str(&path)).unwrap();
}

#[test]
fn a_child_writes_into_a_pipe_from_another_directory() {
    let [mut reader, writer] = process::pipe2(0).unwrap();
    let status =
        Command::new(b"/bin/sh", &["sh", "-c", "pwd; exit 3"].map(|word| word.as_bytes().to_vec()), vec![])
            .dup2(writer.raw(), 1)
            .close(writer.raw())
            .close(reader.raw())
            .chdir(b"/usr")
            .run()
            .unwrap();
    drop(writer);
    let mut output = String::new();
    reader.read_to_string(&mut output).unwrap();
    assert_eq!((status, output.as_str()), (Status::Exited(3), "/usr\n"));
}

#[test]
fn a_program_that_is_not_there_is_an_errno() {
    let missing = Command::new(b"/no/such/program", &[b"x".to_vec()], vec![]).run();
    assert_eq!(missing, Err(errno::ENOENT));
    assert_eq!(process::find_program(b"no-such-program", Some(b"/bin")), Err(errno::ENOENT));
    assert_eq!(process::find_program(b"sh", Some(b"/nowhere:/bin")), Ok(b"/bin/sh".to_vec()));
    assert_eq!(errno::ENOENT.to_string(), "No such file or directory");
    assert_eq!(Errno(4000).to_string(), "Unknown error 4000");
}

#[test]
fn a_blocked_signal_is_taken() {
    const USR1: u64 = 1 << 9;
    // Blocked in this thread alone: sent to the child's shell, which sends it to itself, ignored, and ends.
    process::mask(Mask::Block, USR1).unwrap();
    assert_eq!(process::take_signal(USR1, Some(Duration::ZERO)), Ok(None));
    let words = ["sh", "-c", "kill -USR1 $$; echo on >/dev/null"].map(|word| word.as_bytes().to_vec());
    let ignoring = Command::new(b"/bin/sh", &words, vec![]).ignore(10, true).mask(0).run();
    assert_eq!(ignoring, Ok(Status::Exited(0)));
    let dying = Command::new(b"/bin/sh", &words, vec![]).mask(0).run();
    assert_eq!(dying, Ok(Status::Signaled(10, false)));
}
