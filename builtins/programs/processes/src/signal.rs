//! `kill` and `timeout`.

use std::io::Write;
use std::time::{Duration, Instant};

use toolbox_command::{Context, Order, Parsed, Tool, quote};
use toolbox_linux::process::{self, Command, Mask, SIGNALS, Status, WNOHANG};

use crate::run::failure_code;
use crate::system::duration;

pub(crate) const KILL: Tool = Tool {
    name: "kill",
    usage: "[-s SIGNAL | -SIGNAL] PID..., or -l [SIGNAL]..., or -t [SIGNAL]...",
    options: &[
        ("s/signal=", "signal by name or number (default TERM)"),
        ("l/list", "names of signals, or a number for a name and the other way"),
        ("t/table", "a table of signals"),
    ],
    order: Order::Raw,
    misuse: 1,
    main: kill,
};

pub(crate) const TIMEOUT: Tool = Tool {
    name: "timeout",
    usage: "[OPTION]... DURATION COMMAND [ARG]...",
    options: &[
        ("/preserve-status", "exit with the command's status even after the time"),
        ("/foreground", "let the command read from the terminal; its children are not ended"),
        ("k/kill-after=", "send KILL so long after the first signal"),
        ("s/signal=", "signal to send (default TERM)"),
        ("v/verbose", "say what is sent"),
    ],
    order: Order::First,
    misuse: 125,
    main: timeout,
};

/// A signal by name, with or without `SIG`, or by number.
fn signal(text: &str) -> Option<i32> {
    if let Ok(number) = text.parse::<i32>() {
        return (0..=64).contains(&number).then_some(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    match name {
        "EXIT" => Some(0),
        "IOT" => Some(6),
        "CLD" => Some(17),
        "IO" => Some(29),
        _ => SIGNALS
            .iter()
            .position(|known| *known == name)
            .map(|at| at as i32 + 1)
            .or_else(|| real_time(name)),
    }
}

fn real_time(name: &str) -> Option<i32> {
    const FIRST: i32 = 34;
    const LAST: i32 = 64;
    let number = match name.strip_prefix("RT")? {
        "MIN" => FIRST,
        "MAX" => LAST,
        rest => match rest.strip_prefix("MIN+") {
            Some(plus) => FIRST + plus.parse::<i32>().ok()?,
            None => LAST - rest.strip_prefix("MAX-")?.parse::<i32>().ok()?,
        },
    };
    (FIRST..=LAST).contains(&number).then_some(number)
}

fn name(number: i32) -> Option<String> {
    match number {
        0 => Some("EXIT".to_owned()),
        1..=31 => Some(SIGNALS[number as usize - 1].to_owned()),
        34 => Some("RTMIN".to_owned()),
        35..=49 => Some(format!("RTMIN+{}", number - 34)),
        50..=63 => Some(format!("RTMAX-{}", 64 - number)),
        64 => Some("RTMAX".to_owned()),
        _ => None,
    }
}

fn kill(context: &Context, parsed: Parsed) -> i32 {
    let mut words = parsed.operands;
    // `-9`, `-TERM` and `-SIGTERM` before anything else; what follows may be a group, `-123`.
    let mut chosen = None;
    if let Some(first) = words.first().map(|word| String::from_utf8_lossy(word).into_owned())
        && let Some(rest) = first.strip_prefix('-')
        && !rest.starts_with('-')
        && !rest.is_empty()
        && let Some(number) =
            signal(rest).filter(|_| rest.len() > 1 || rest.bytes().all(|byte| byte.is_ascii_digit()))
    {
        chosen = Some(number);
        words.remove(0);
        if words.first().is_some_and(|word| word == b"--") {
            words.remove(0);
        }
    } else {
        let tool = Tool { order: Order::FirstNumbers, ..KILL };
        let again = toolbox_command::options::parse(&tool, context, words);
        words = again.operands.clone();
        if again.has("list") || again.has("table") {
            return list(context, &words, again.has("table"));
        }
        if let Some(text) = again.text("signal") {
            chosen = Some(signal(&text).unwrap_or_else(|| {
                context.misused(format!("{}: invalid signal", quote::always(text.as_bytes())))
            }));
        }
    }
    if words.is_empty() {
        context.misused("no process ID specified");
    }
    for word in &words {
        match String::from_utf8_lossy(word).parse::<i32>() {
            Ok(process) => {
                if let Err(reason) = process::kill(process, chosen.unwrap_or(15)) {
                    context.fail(format!("sending signal to {} failed: {reason}", quote::always(word)));
                }
            }
            Err(_) => context.fail(format!("{}: invalid process id", quote::always(word))),
        }
    }
    context.status()
}

fn list(context: &Context, words: &[Vec<u8>], table: bool) -> i32 {
    let mut output = context.output();
    let all: Vec<i32> = (1..=31).chain(34..=64).collect();
    let mut line = |number: i32, by_number: bool| {
        let text = name(number).unwrap_or_default();
        let line = match (table, by_number) {
            (true, _) => format!("{number:2} {text}\n"),
            (false, true) => format!("{text}\n"),
            (false, false) => format!("{number}\n"),
        };
        context.check_write(output.write_all(line.as_bytes()));
    };
    if words.is_empty() {
        all.iter().for_each(|&number| line(number, true));
    }
    for word in words {
        let text = String::from_utf8_lossy(word);
        // A code from a shell, 128 and more, stands for its signal.
        let number = text.parse::<i32>().ok().map(|number| if number > 128 { number - 128 } else { number });
        match number
            .filter(|&number| name(number).is_some())
            .map(|number| (number, true))
            .or_else(|| signal(&text).filter(|_| number.is_none()).map(|number| (number, false)))
        {
            Some((number, by_number)) => line(number, by_number),
            None => context.fail(format!("{}: invalid signal", quote::always(word))),
        }
    }
    context.finish(output)
}

fn timeout(context: &Context, parsed: Parsed) -> i32 {
    let time = |text: &str| {
        duration(text).unwrap_or_else(|| {
            context.misused(format!("invalid time interval {}", quote::always(text.as_bytes())))
        })
    };
    let after = parsed.text("kill-after").map(|text| time(&text));
    let chosen = parsed.text("signal").map_or(15, |text| {
        signal(&text)
            .unwrap_or_else(|| context.misused(format!("{}: invalid signal", quote::always(text.as_bytes()))))
    });
    if parsed.operands.len() < 2 {
        context.missing_operand();
    }
    let limit = time(&String::from_utf8_lossy(&parsed.operands[0]));
    let words = &parsed.operands[1..];
    let foreground = parsed.has("foreground");
    const CHILD: u64 = 1 << 16;
    // Signals that end this process are passed on first: HUP, INT, QUIT, TERM.
    const PASSED: u64 = 1 | 1 << 1 | 1 << 2 | 1 << 14;
    let before = process::mask(Mask::Block, CHILD | PASSED).unwrap_or_else(|reason| context.die(125, reason));
    // The command's own children must be reached too, so all are one group.
    if !foreground {
        let _ = process::setpgid(0, 0);
    }
    let environment = process::environment();
    let path = std::env::var_os("PATH").map(|path| path.into_encoded_bytes());
    let child = process::find_program(&words[0], path.as_deref())
        .and_then(|program| Command::new(&program, words, environment).mask(before).spawn());
    let child = match child {
        Ok(child) => child,
        Err(reason) => {
            context.warn(format!("failed to run command {}: {reason}", quote::always(&words[0])));
            return failure_code(reason);
        }
    };
    let mut deadline = (!limit.is_zero()).then(|| Instant::now().checked_add(limit)).flatten();
    let (mut sent, mut expired) = (chosen, false);
    loop {
        match process::wait4(child, WNOHANG) {
            Ok(Some((_, status))) => return report(&parsed, status, expired, sent),
            Ok(None) => {}
            Err(reason) => context.die(125, format!("error waiting for command: {reason}")),
        }
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let taken =
            if left == Some(Duration::ZERO) { Ok(None) } else { process::take_signal(CHILD | PASSED, left) };
        let passed = match taken {
            Ok(Some(17)) | Err(_) => continue,
            Ok(Some(other)) => other,
            Ok(None) => {
                if expired {
                    sent = 9;
                }
                expired = true;
                sent
            }
        };
        if parsed.has("verbose") {
            let text = name(passed).unwrap_or_default();
            context.warn(format!("sending signal {text} to command {}", quote::always(&words[0])));
        }
        let _ = process::kill(child, passed);
        if !foreground && passed != 9 {
            // The group has this process in it: the copy for itself is ignored or, where the signal is blocked, taken away.
            let _ = process::ignore(passed, true);
            let _ = process::kill(0, passed);
            let _ = process::take_signal(1 << (passed - 1), Some(Duration::ZERO));
        }
        if passed != 9 {
            let _ = process::kill(child, 18);
        }
        deadline = after.filter(|_| passed != 9).and_then(|after| Instant::now().checked_add(after));
    }
}

fn report(parsed: &Parsed, status: Status, expired: bool, sent: i32) -> i32 {
    if expired && !parsed.has("preserve-status") && !(sent == 9 && status == Status::Signaled(9, false)) {
        return 124;
    }
    status.code()
}
