//! `uname`, `nproc`, `hostname`, `sleep`, `true`, `false`, `yes`.

use std::io::Write;
use std::time::Duration;

use toolbox_command::{Context, Order, Parsed, Tool, quote};
use toolbox_linux::file::Descriptor;
use toolbox_linux::process;

pub(crate) const UNAME: Tool = Tool {
    name: "uname",
    usage: "[OPTION]...",
    options: &[
        ("a/all", "everything that is known, in the order below"),
        ("s/kernel-name", "name of the kernel (default)"),
        ("n/nodename", "name of the host"),
        ("r/kernel-release", "release of the kernel"),
        ("v/kernel-version", "version of the kernel"),
        ("m/machine", "name of the hardware"),
        ("p/processor", "type of the processor"),
        ("i/hardware-platform", "platform"),
        ("o/operating-system", "operating system"),
    ],
    order: Order::Anywhere,
    misuse: 1,
    main: uname,
};

pub(crate) const NPROC: Tool = Tool {
    name: "nproc",
    usage: "[OPTION]...",
    options: &[("/all", "all processors that are there"), ("/ignore=", "leave out so many")],
    order: Order::Anywhere,
    misuse: 1,
    main: nproc,
};

pub(crate) const HOSTNAME: Tool = Tool {
    name: "hostname",
    usage: "[OPTION] [NAME]",
    options: &[("s/short", "up to the first dot"), ("d/domain", "after the first dot")],
    order: Order::Anywhere,
    misuse: 1,
    main: hostname,
};

pub(crate) const SLEEP: Tool = Tool {
    name: "sleep",
    usage: "NUMBER[smhd]...",
    options: &[],
    order: Order::Anywhere,
    misuse: 1,
    main: sleep,
};

pub(crate) const TRUE: Tool =
    Tool { name: "true", usage: "", options: &[], order: Order::Raw, misuse: 1, main: |_, _| 0 };

pub(crate) const FALSE: Tool =
    Tool { name: "false", usage: "", options: &[], order: Order::Raw, misuse: 1, main: |_, _| 1 };

pub(crate) const YES: Tool =
    Tool { name: "yes", usage: "[STRING]...", options: &[], order: Order::First, misuse: 1, main: yes };

fn print(context: &Context, line: &[u8]) -> i32 {
    context.check_write(Descriptor::keep(1).write_all(&[line, b"\n"].concat()));
    context.status()
}

fn uname(context: &Context, parsed: Parsed) -> i32 {
    if let Some(extra) = parsed.operands.first() {
        context.extra_operand(extra);
    }
    let name =
        process::uname().unwrap_or_else(|reason| context.die(1, format!("cannot get system name: {reason}")));
    // The kernel knows neither processor nor platform, which `-a` leaves out.
    let fields: [(&str, &[u8]); 8] = [
        ("kernel-name", &name.sysname),
        ("nodename", &name.nodename),
        ("kernel-release", &name.release),
        ("kernel-version", &name.version),
        ("machine", &name.machine),
        ("processor", b"unknown"),
        ("hardware-platform", b"unknown"),
        ("operating-system", b"GNU/Linux"),
    ];
    let all = parsed.has("all");
    let wanted = |(key, value): &&(&str, &[u8])| {
        if all {
            *value != b"unknown"
        } else {
            parsed.has(key) || parsed.options.is_empty() && *key == "kernel-name"
        }
    };
    let line: Vec<&[u8]> = fields.iter().filter(wanted).map(|(_, value)| *value).collect();
    print(context, &line.join(&b' '))
}

fn nproc(context: &Context, parsed: Parsed) -> i32 {
    if let Some(extra) = parsed.operands.first() {
        context.extra_operand(extra);
    }
    let ignored: u32 = match parsed.text("ignore") {
        Some(text) => text.parse().unwrap_or_else(|_| {
            context.die(1, format!("invalid number: {}", quote::always(text.as_bytes())))
        }),
        None => 0,
    };
    let mut count = process::processors().unwrap_or(1);
    if !parsed.has("all") {
        // OpenMP's variables, as GNU's nproc has them.
        let variable = |name: &str| {
            let text = std::env::var(name).ok()?;
            text.split(',').next()?.trim().parse::<u32>().ok().filter(|&count| count > 0)
        };
        count = variable("OMP_NUM_THREADS").unwrap_or(count);
        count = count.min(variable("OMP_THREAD_LIMIT").unwrap_or(u32::MAX));
    }
    print(context, count.saturating_sub(ignored).max(1).to_string().as_bytes())
}

fn hostname(context: &Context, parsed: Parsed) -> i32 {
    match &parsed.operands[..] {
        [] => {
            let name = process::uname().unwrap_or_else(|reason| context.die(1, reason)).nodename;
            let dot = name.iter().position(|&byte| byte == b'.');
            let shown = match parsed.last(&["short", "domain"]) {
                Some("short") => &name[..dot.unwrap_or(name.len())],
                Some(_) => dot.map_or(&b""[..], |dot| &name[dot + 1..]),
                None => &name,
            };
            print(context, shown)
        }
        [name] => {
            if let Err(reason) = process::sethostname(name) {
                context.fail(format!("cannot set name to {}: {reason}", quote::always(name)));
            }
            context.status()
        }
        [_, extra, ..] => context.extra_operand(extra),
    }
}

/// Reads a duration with a unit; `None` if it is none.
pub(crate) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = match text.chars().last()? {
        's' => (&text[..text.len() - 1], 1.0),
        'm' => (&text[..text.len() - 1], 60.0),
        'h' => (&text[..text.len() - 1], 3600.0),
        'd' => (&text[..text.len() - 1], 86400.0),
        _ => (text, 1.0),
    };
    if matches!(number, "inf" | "infinity") {
        return Some(Duration::from_secs(i64::MAX as u64 / 4));
    }
    let plain = number.bytes().all(|byte| byte.is_ascii_digit() || b".eE+-".contains(&byte));
    let seconds: f64 = number.parse().ok().filter(|_| plain)?;
    Duration::try_from_secs_f64(seconds * unit).ok()
}

fn sleep(context: &Context, parsed: Parsed) -> i32 {
    if parsed.operands.is_empty() {
        context.missing_operand();
    }
    let mut total = Duration::ZERO;
    let mut wrong = false;
    for operand in &parsed.operands {
        match duration(&String::from_utf8_lossy(operand)) {
            Some(time) => total = total.saturating_add(time),
            None => {
                context.warn(format!("invalid time interval {}", quote::always(operand)));
                wrong = true;
            }
        }
    }
    if wrong {
        let _ = Descriptor::keep(2).write_all(b"Try 'sleep --help' for more information.\n");
        return 1;
    }
    process::sleep(total);
    0
}

fn yes(context: &Context, parsed: Parsed) -> i32 {
    let words = if parsed.operands.is_empty() { vec![b"y".to_vec()] } else { parsed.operands };
    let line = [&words.join(&b' ')[..], b"\n"].concat();
    let block = line.repeat((1usize << 14).div_ceil(line.len()));
    loop {
        context.check_write(Descriptor::keep(1).write_all(&block));
    }
}
