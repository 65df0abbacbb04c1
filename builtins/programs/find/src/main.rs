//! `find`: files of a tree that an expression selects.

mod expression;

use std::io::Write;

use expression::{Expression, Find, Links};
use toolbox_command::{Context, Order, Parsed, Tool, quote};
use toolbox_linux::file::{self, Stat};

const FIND: Tool = Tool {
    name: "find",
    usage: "[-H] [-L] [-P] [PATH]... [EXPRESSION]\n\
  -maxdepth N -mindepth N -depth -d -mount -xdev -daystart -follow -noleaf -ignore_readdir_race -warn -nowarn\n\
  ( EXPR ) ! EXPR -not EXPR EXPR -a EXPR EXPR -o EXPR EXPR , EXPR -true -false\n\
  -amin N -anewer FILE -atime N -cmin N -cnewer FILE -ctime N -mmin N -mtime N -newer FILE -newerXY REF -used N\n\
  -empty -executable -readable -writable -gid N -group NAME -uid N -user NAME -nogroup -nouser -inum N -links N\n\
  -name GLOB -iname GLOB -path GLOB -ipath GLOB -wholename GLOB -lname GLOB -ilname GLOB -regex RE -iregex RE\n\
  -regextype TYPE -perm [-/]MODE -samefile FILE -size N[bcwkMG] -type [bcdpfls],... -xtype [bcdpfls],...\n\
  -print -print0 -printf FORMAT -fprint FILE -fprint0 FILE -fprintf FILE FORMAT -ls -fls FILE -delete -prune -quit\n\
  -exec COMMAND ; -exec COMMAND {} + -execdir COMMAND ; -execdir COMMAND {} + -ok COMMAND ; -okdir COMMAND ;",
    options: &[],
    order: Order::Raw,
    misuse: 1,
    main: find,
};

/// Runs the tool.
fn main() -> std::process::ExitCode {
    toolbox_command::run(&[FIND])
}

fn find(context: &Context, parsed: Parsed) -> i32 {
    let mut words = std::collections::VecDeque::from(parsed.operands);
    if words.iter().any(|word| word == b"--help" || word == b"-help") {
        words.clear();
        let tool = Tool { order: Order::Anywhere, ..FIND };
        toolbox_command::options::parse(&tool, context, vec![b"--help".to_vec()]);
    }
    if words.iter().any(|word| word == b"--version" || word == b"-version") {
        let tool = Tool { order: Order::Anywhere, ..FIND };
        toolbox_command::options::parse(&tool, context, vec![b"--version".to_vec()]);
    }
    let mut links = Links::None;
    while let Some(word) = words.front() {
        links = match &word[..] {
            b"-H" => Links::Operands,
            b"-L" => Links::All,
            b"-P" => Links::None,
            _ => break,
        };
        words.pop_front();
    }
    let mut paths = Vec::new();
    while let Some(word) = words
        .pop_front_if(|word| !(word.starts_with(b"-") && word.len() > 1 || matches!(&word[..], b"(" | b"!")))
    {
        paths.push(word);
    }
    if paths.is_empty() {
        paths.push(b".".to_vec());
    }
    let words: Vec<Vec<u8>> = words.into();
    let (mut find, expression) = expression::parse(context, &words, links);
    for path in paths {
        if find.stopped {
            break;
        }
        let stat = if find.links == Links::None {
            file::lstat(&path)
        } else {
            file::stat(&path).or_else(|_| file::lstat(&path))
        };
        match stat {
            Ok(stat) => {
                let mut above = Vec::new();
                let root = path.len();
                visit(&mut find, &expression, &path, root, &stat, 0, stat.device, &mut above);
            }
            Err(reason) => {
                find.flush();
                context.fail(format!("{}: {reason}", quote::always(&path)));
            }
        }
    }
    find.finish()
}

#[allow(clippy::too_many_arguments, reason = "the walk's own state, passed down the tree")]
fn visit(
    find: &mut Find<'_>,
    expression: &Expression,
    path: &[u8],
    root: usize,
    stat: &Stat,
    depth: usize,
    device: u64,
    above: &mut Vec<(u64, u64)>,
) {
    let tested = depth >= find.least;
    let mut entry = expression::Entry { path, root, stat, depth, pruned: false };
    if tested && !find.depth_first {
        find.evaluate(expression, &mut entry);
    }
    let pruned = entry.pruned;
    let descends =
        stat.is_directory() && !pruned && depth < find.most && !(find.one_device && stat.device != device);
    if descends && !find.stopped {
        if above.contains(&stat.identity()) {
            find.flush();
            find.context.fail(format!(
                "File system loop detected; {} is part of the same file system loop",
                quote::always(path)
            ));
            return;
        }
        match file::read_directory(path) {
            Ok(entries) => {
                above.push(stat.identity());
                for entry in entries {
                    if find.stopped {
                        break;
                    }
                    let slash: &[u8] = if path.ends_with(b"/") { b"" } else { b"/" };
                    let child = [path, slash, &entry.name].concat();
                    let found = if find.links == Links::All {
                        file::stat(&child).or_else(|_| file::lstat(&child))
                    } else {
                        file::lstat(&child)
                    };
                    match found {
                        Ok(stat) => visit(find, expression, &child, root, &stat, depth + 1, device, above),
                        Err(reason) => {
                            find.flush();
                            find.context.fail(format!("{}: {reason}", quote::always(&child)));
                        }
                    }
                }
                above.pop();
            }
            Err(reason) => {
                find.flush();
                find.context.fail(format!("{}: {reason}", quote::always(path)));
            }
        }
    }
    if tested && find.depth_first && !find.stopped {
        let mut entry = expression::Entry { path, root, stat, depth, pruned: false };
        find.evaluate(expression, &mut entry);
    }
}

/// Writes; a failure ends the program.
pub(crate) fn put(context: &Context, output: &mut impl Write, text: &[u8]) {
    context.check_write(output.write_all(text));
}
