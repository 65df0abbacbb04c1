//! `dd`.

use std::io::Write;

use toolbox_command::{Context, Order, Parsed, Tool, quote};
use toolbox_linux::file::{self, Descriptor, Kind, open};
use toolbox_linux::{errno, process};

use crate::touch::size;

pub(crate) const DD: Tool = Tool {
    name: "dd",
    usage: "[OPERAND]...\n\
  bs=BYTES ibs=BYTES obs=BYTES cbs=BYTES   sizes of blocks\n\
  if=FILE of=FILE                          input and output\n\
  count=N skip=N seek=N                    blocks to copy, to skip, to seek; bytes with a B at the end\n\
  conv=LIST                                block unblock lcase ucase swab sync noerror notrunc excl nocreat fsync fdatasync\n\
  iflag=LIST oflag=LIST                    append fullblock count_bytes skip_bytes seek_bytes nofollow directory\n\
  status=none|noxfer                       what is reported at the end",
    options: &[],
    order: Order::Anywhere,
    misuse: 1,
    main: dd,
};

#[derive(Default)]
struct Counts {
    full: u64,
    partial: u64,
}

struct Job<'a> {
    context: &'a Context,
    conversions: Vec<String>,
    output: Descriptor,
    output_block: usize,
    pending: Vec<u8>,
    read: Counts,
    written: Counts,
    bytes: u64,
}

/// A number with GNU's suffixes and products, `2x512`.
fn number(context: &Context, text: &str) -> u64 {
    let wrong = || context.die(1, format!("invalid number: {}", quote::always(text.as_bytes())));
    text.split('x')
        .map(|part| size(part.trim_end_matches('B')).or_else(|| size(part)).unwrap_or_else(wrong))
        .try_fold(1u64, u64::checked_mul)
        .unwrap_or_else(wrong)
}

fn dd(context: &Context, parsed: Parsed) -> i32 {
    let (mut input, mut output) = (None, None);
    let (mut input_block, mut output_block, mut both, mut conversion_block) = (512u64, 512u64, None, 0u64);
    let (mut count, mut skip, mut seek) = (None, (0u64, false), (0u64, false));
    let (mut conversions, mut input_flags, mut output_flags) = (Vec::new(), Vec::new(), Vec::new());
    let mut status = String::new();
    for operand in &parsed.operands {
        let text = String::from_utf8_lossy(operand).into_owned();
        let Some((key, value)) = text.split_once('=') else {
            context.misused(format!("unrecognized operand {}", quote::always(operand)));
        };
        let list = || value.split(',').map(str::to_owned).collect::<Vec<_>>();
        let amount = || {
            (
                number(context, value),
                value.ends_with('B')
                    && !value.ends_with("KB")
                    && !value.ends_with("MB")
                    && !value.ends_with("iB"),
            )
        };
        match key {
            "if" => input = Some(operand[3..].to_vec()),
            "of" => output = Some(operand[3..].to_vec()),
            "ibs" => input_block = number(context, value),
            "obs" => output_block = number(context, value),
            "bs" => both = Some(number(context, value)),
            "cbs" => conversion_block = number(context, value),
            "count" => count = Some(amount()),
            "skip" | "iseek" => skip = amount(),
            "seek" | "oseek" => seek = amount(),
            "conv" => conversions.extend(list()),
            "iflag" => input_flags.extend(list()),
            "oflag" => output_flags.extend(list()),
            "status" if matches!(value, "none" | "noxfer") => status = value.to_owned(),
            "status" => context.misused(format!("invalid status level: {}", quote::always(value.as_bytes()))),
            _ => context.misused(format!("unrecognized operand {}", quote::always(operand))),
        }
    }
    const CONVERSIONS: [&str; 12] = [
        "block",
        "unblock",
        "lcase",
        "ucase",
        "swab",
        "sync",
        "noerror",
        "notrunc",
        "excl",
        "nocreat",
        "fsync",
        "fdatasync",
    ];
    for (what, list, known) in [
        ("conversion", &conversions, &CONVERSIONS[..]),
        (
            "input flag",
            &input_flags,
            &["fullblock", "count_bytes", "skip_bytes", "nofollow", "directory", "nonblock", "noatime"],
        ),
        (
            "output flag",
            &output_flags,
            &["append", "seek_bytes", "nofollow", "directory", "nonblock", "sync", "dsync"],
        ),
    ] {
        if let Some(unknown) = list.iter().find(|word| !known.contains(&word.as_str())) {
            context.misused(format!("invalid {what}: {}", quote::always(unknown.as_bytes())));
        }
    }
    let has = |list: &[String], word: &str| list.iter().any(|other| other == word);
    if let Some(size) = both {
        (input_block, output_block) = (size, size);
    }
    // A block is one buffer: more than this is no block.
    const LARGEST_BLOCK: u64 = 1 << 28;
    for (name, size) in [("ibs", input_block), ("obs", output_block)] {
        if size == 0 || size > LARGEST_BLOCK {
            context.die(
                1,
                format!(
                    "invalid number: {} is not a size for {name}",
                    quote::always(size.to_string().as_bytes())
                ),
            );
        }
    }
    for pair in [["lcase", "ucase"], ["block", "unblock"], ["excl", "nocreat"]] {
        if pair.iter().all(|word| has(&conversions, word)) {
            context.die(1, format!("cannot combine any two of {{{},{}}}", pair[0], pair[1]));
        }
    }
    let flag = |list: &[String], word: &str, bits: i32| if has(list, word) { bits } else { 0 };
    let input_bits = flag(&input_flags, "nofollow", open::NOFOLLOW)
        | flag(&input_flags, "directory", open::DIRECTORY)
        | flag(&input_flags, "nonblock", open::NONBLOCK)
        | flag(&input_flags, "noatime", open::NOATIME);
    let source = match &input {
        Some(path) => file::open(path, open::RDONLY | input_bits, 0).unwrap_or_else(|reason| {
            context.die(1, format!("failed to open {}: {reason}", quote::always(path)))
        }),
        None => Descriptor::keep(0),
    };
    let seek_bytes =
        if seek.1 || has(&output_flags, "seek_bytes") { seek.0 } else { seek.0.saturating_mul(output_block) };
    let target = match &output {
        Some(path) => {
            let create = if has(&conversions, "nocreat") { 0 } else { open::CREAT };
            let bits = create
                | flag(&conversions, "excl", open::EXCL)
                | flag(&output_flags, "append", open::APPEND)
                | flag(&output_flags, "nofollow", open::NOFOLLOW)
                | flag(&output_flags, "directory", open::DIRECTORY)
                | flag(&output_flags, "nonblock", open::NONBLOCK)
                | flag(&output_flags, "sync", open::SYNC)
                | flag(&output_flags, "dsync", open::DSYNC);
            let truncate = if seek_bytes == 0 && !has(&conversions, "notrunc") { open::TRUNC } else { 0 };
            let opened = file::open(path, open::WRONLY | bits | truncate, 0o666).unwrap_or_else(|reason| {
                context.die(1, format!("failed to open {}: {reason}", quote::always(path)))
            });
            if seek_bytes > 0
                && !has(&conversions, "notrunc")
                && let Err(reason) = file::ftruncate(opened.raw(), seek_bytes as i64)
                && opened.stat().is_ok_and(|stat| stat.kind() == Kind::Regular)
            {
                context.die(
                    1,
                    format!(
                        "failed to truncate to {seek_bytes} bytes in output file {}: {reason}",
                        quote::always(path)
                    ),
                );
            }
            opened
        }
        None => Descriptor::keep(1),
    };
    if seek_bytes > 0 && file::lseek(target.raw(), seek_bytes as i64, 1).is_err() {
        let name = output.as_deref().unwrap_or(b"standard output");
        context.die(1, format!("{}: cannot seek: {}", quote::always(name), errno::ESPIPE));
    }
    let started = process::now();
    let mut job = Job {
        context,
        conversions,
        output: target,
        output_block: output_block as usize,
        pending: Vec::new(),
        read: Counts::default(),
        written: Counts::default(),
        bytes: 0,
    };
    let full = has(&input_flags, "fullblock");
    let mut buffer = vec![0u8; input_block as usize];
    let skip_bytes =
        if skip.1 || has(&input_flags, "skip_bytes") { skip.0 } else { skip.0.saturating_mul(input_block) };
    if skip_bytes > 0 && file::lseek(source.raw(), skip_bytes as i64, 1).is_err() {
        let mut left = skip_bytes;
        while left > 0 {
            let part = left.min(input_block) as usize;
            match file::read(source.raw(), &mut buffer[..part]) {
                Ok(0) => break,
                Ok(count) => left -= count as u64,
                Err(reason) => context.die(1, format!("error reading: {reason}")),
            }
        }
    }
    let in_bytes = count.is_some_and(|(_, bytes)| bytes) || has(&input_flags, "count_bytes");
    let mut left = count.map(|(count, _)| count);
    let direct = both.is_some()
        && !job
            .conversions
            .iter()
            .any(|word| ["block", "unblock", "lcase", "ucase", "swab"].contains(&word.as_str()));
    let mut records = Vec::new();
    let mut odd = None;
    while left != Some(0) {
        let want = match left {
            Some(bytes) if in_bytes => bytes.min(input_block) as usize,
            _ => input_block as usize,
        };
        let mut length = 0;
        let read = loop {
            match file::read(source.raw(), &mut buffer[length..want]) {
                Ok(0) => break Ok(()),
                Ok(count) => {
                    length += count;
                    if !full || length == want {
                        break Ok(());
                    }
                }
                Err(errno::EINTR) => {}
                Err(reason) => break Err(reason),
            }
        };
        if let Err(reason) = read {
            let name = input.as_deref().unwrap_or(b"standard input");
            context.fail(format!("error reading {}: {reason}", quote::always(name)));
            if !has(&job.conversions, "noerror") || file::lseek(source.raw(), input_block as i64, 1).is_err()
            {
                break;
            }
            left = left.map(|left| left.saturating_sub(if in_bytes { input_block } else { 1 }));
            if has(&job.conversions, "sync") {
                buffer.fill(0);
                job.read.partial += 1;
                job.put(&buffer.clone(), direct);
            }
            continue;
        }
        if length == 0 {
            break;
        }
        left = left.map(|left| left - if in_bytes { length as u64 } else { 1 });
        if length as u64 == input_block {
            job.read.full += 1;
        } else {
            job.read.partial += 1;
        }
        let mut data = buffer[..length].to_vec();
        if has(&job.conversions, "sync") {
            let blank =
                if has(&job.conversions, "block") || has(&job.conversions, "unblock") { b' ' } else { 0 };
            data.resize(input_block as usize, blank);
        }
        convert(&mut data, &job.conversions, &mut odd);
        if has(&job.conversions, "block") || has(&job.conversions, "unblock") {
            records.extend(data);
            let (done, rest) = job.records(&records, conversion_block as usize, false);
            records = rest;
            job.put(&done, false);
        } else {
            job.put(&data, direct);
        }
    }
    if let Some(byte) = odd {
        job.put(&[byte], false);
    }
    if !records.is_empty() {
        let (done, _) = job.records(&records, conversion_block as usize, true);
        job.put(&done, false);
    }
    job.flush();
    if (has(&job.conversions, "fsync") || has(&job.conversions, "fdatasync"))
        && let Err(reason) = job.output.fsync()
    {
        context.fail(format!("fsync failed: {reason}"));
    }
    job.report(&status, started);
    context.status()
}

fn convert(data: &mut Vec<u8>, conversions: &[String], odd: &mut Option<u8>) {
    for conversion in conversions {
        match &conversion[..] {
            "lcase" => data.make_ascii_lowercase(),
            "ucase" => data.make_ascii_uppercase(),
            "swab" => {
                if let Some(byte) = odd.take() {
                    data.insert(0, byte);
                }
                if data.len() % 2 == 1 {
                    *odd = data.pop();
                }
                for pair in data.chunks_exact_mut(2) {
                    pair.swap(0, 1);
                }
            }
            _ => {}
        }
    }
}

impl Job<'_> {
    /// Lines to records of one length, or back; the answer is what is done and what is left.
    fn records(&self, data: &[u8], length: usize, last: bool) -> (Vec<u8>, Vec<u8>) {
        let (mut done, mut rest) = (Vec::new(), data);
        if length == 0 {
            return (data.to_vec(), Vec::new());
        }
        if self.conversions.iter().any(|word| word == "block") {
            while !rest.is_empty() {
                let Some(end) = rest.iter().position(|&byte| byte == b'\n').or(last.then_some(rest.len()))
                else {
                    break;
                };
                let mut record = rest[..end].to_vec();
                record.resize(length, b' ');
                done.extend(record);
                rest = rest.get(end + 1..).unwrap_or_default();
            }
        } else {
            while rest.len() >= length || last && !rest.is_empty() {
                let (record, after) = rest.split_at(length.min(rest.len()));
                let end = record.iter().rposition(|&byte| byte != b' ').map_or(0, |at| at + 1);
                done.extend(&record[..end]);
                done.push(b'\n');
                rest = after;
            }
        }
        (done, rest.to_vec())
    }

    fn put(&mut self, data: &[u8], direct: bool) {
        if direct {
            self.write(data);
            return;
        }
        self.pending.extend_from_slice(data);
        while self.pending.len() >= self.output_block {
            let rest = self.pending.split_off(self.output_block);
            let block = std::mem::replace(&mut self.pending, rest);
            self.write(&block);
        }
    }

    fn flush(&mut self) {
        let block = std::mem::take(&mut self.pending);
        if !block.is_empty() {
            self.write(&block);
        }
    }

    fn write(&mut self, data: &[u8]) {
        if let Err(error) = self.output.write_all(data) {
            self.context.die(1, format!("error writing: {}", toolbox_command::reason(&error)));
        }
        self.bytes += data.len() as u64;
        if data.len() == self.output_block {
            self.written.full += 1;
        } else {
            self.written.partial += 1;
        }
    }

    fn report(&self, status: &str, started: file::Time) {
        if status == "none" {
            return;
        }
        let mut text = format!(
            "{}+{} records in\n{}+{} records out\n",
            self.read.full, self.read.partial, self.written.full, self.written.partial
        );
        if status != "noxfer" {
            let now = process::now();
            let seconds =
                (now.seconds - started.seconds) as f64 + (now.nanoseconds - started.nanoseconds) as f64 / 1e9;
            let plural = if self.bytes == 1 { "" } else { "s" };
            let human = match self.bytes {
                0..1000 => String::new(),
                bytes => format!(" ({})", scaled(bytes as f64)),
            };
            let rate = scaled(self.bytes as f64 / seconds.max(1e-9));
            text += &format!("{} byte{plural}{human} copied, {seconds:.6} s, {rate}/s\n", self.bytes);
        }
        let _ = Descriptor::keep(2).write_all(text.as_bytes());
    }
}

fn scaled(bytes: f64) -> String {
    let (mut value, mut unit) = (bytes, 0);
    const UNITS: [&str; 6] = ["B", "kB", "MB", "GB", "TB", "PB"];
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if value < 9.95 && unit > 0 {
        format!("{value:.1} {}", UNITS[unit])
    } else {
        format!("{value:.0} {}", UNITS[unit])
    }
}
