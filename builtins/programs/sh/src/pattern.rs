//! Patterns: POSIX 2.14, with `\` before a byte that means itself. Byte by byte, as dash has it.

use crate::system;

/// Whether the whole text matches.
pub(crate) fn matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut at, mut position) = (0, 0);
    // The last `*` and the text behind what it has taken so far; an earlier one never has to be looked at again.
    let mut retry: Option<(usize, usize)> = None;
    loop {
        let advanced = if at == pattern.len() {
            if position == text.len() {
                return true;
            }
            None
        } else if pattern[at] == b'*' {
            retry = Some((at + 1, position));
            Some((at + 1, position))
        } else {
            text.get(position)
                .and_then(|byte| one(&pattern[at..], *byte))
                .map(|used| (at + used, position + 1))
        };
        if let Some(next) = advanced {
            (at, position) = next;
            continue;
        }
        match &mut retry {
            Some((after, taken)) if *taken < text.len() => {
                *taken += 1;
                (at, position) = (*after, *taken);
            }
            _ => return false,
        }
    }
}

/// Whether the first element of `pattern`, no `*`, matches `byte`: the element's length.
fn one(pattern: &[u8], byte: u8) -> Option<usize> {
    match pattern[0] {
        b'?' => Some(1),
        b'\\' if pattern.len() > 1 => (pattern[1] == byte).then_some(2),
        b'[' => match bracket(pattern, byte) {
            Some((length, matched)) => matched.then_some(length),
            None => (byte == b'[').then_some(1),
        },
        literal => (literal == byte).then_some(1),
    }
}

/// A bracket expression: its length, and whether it has `byte`. `None` when it does not end.
fn bracket(pattern: &[u8], byte: u8) -> Option<(usize, bool)> {
    let mut at = 1;
    let negated = pattern.get(at) == Some(&b'!');
    if negated {
        at += 1;
    }
    let mut found = false;
    let mut first = true;
    loop {
        match *pattern.get(at)? {
            b']' if !first => break,
            b'[' if pattern.get(at + 1) == Some(&b':')
                && let Some(end) = pattern[at + 2..].windows(2).position(|two| two == b":]")
                && let Some(class) = class(&pattern[at + 2..at + 2 + end]) =>
            {
                found |= class(&byte);
                at += end + 4;
            }
            _ => {
                let low = element(pattern, &mut at)?;
                if pattern.get(at) == Some(&b'-') && pattern.get(at + 1).is_some_and(|next| *next != b']') {
                    at += 1;
                    let high = element(pattern, &mut at)?;
                    found |= (low..=high).contains(&byte);
                } else {
                    found |= low == byte;
                }
            }
        }
        first = false;
    }
    Some((at + 1, found != negated))
}

/// One byte of a bracket expression.
fn element(pattern: &[u8], at: &mut usize) -> Option<u8> {
    if pattern.get(*at) == Some(&b'\\') && pattern.len() > *at + 1 {
        *at += 1;
    }
    let byte = *pattern.get(*at)?;
    *at += 1;
    Some(byte)
}

fn class(name: &[u8]) -> Option<fn(&u8) -> bool> {
    Some(match name {
        b"alpha" => u8::is_ascii_alphabetic,
        b"digit" => u8::is_ascii_digit,
        b"alnum" => u8::is_ascii_alphanumeric,
        b"upper" => u8::is_ascii_uppercase,
        b"lower" => u8::is_ascii_lowercase,
        b"space" => |byte| matches!(byte, b' ' | 9..=13),
        b"blank" => |byte| matches!(byte, b' ' | b'\t'),
        b"punct" => u8::is_ascii_punctuation,
        b"print" => |byte| (b' '..=b'~').contains(byte),
        b"graph" => u8::is_ascii_graphic,
        b"cntrl" => u8::is_ascii_control,
        b"xdigit" => u8::is_ascii_hexdigit,
        _ => return None,
    })
}

/// Whether the pattern has an element besides plain bytes.
pub(crate) fn is_pattern(pattern: &[u8]) -> bool {
    let mut at = 0;
    while at < pattern.len() {
        match pattern[at] {
            b'*' | b'?' => return true,
            b'[' if bracket(&pattern[at..], 0).is_some() => return true,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    false
}

/// The text that a pattern without special elements matches.
fn unescape(pattern: &[u8]) -> Vec<u8> {
    let mut text = Vec::with_capacity(pattern.len());
    let mut bytes = pattern.iter();
    while let Some(byte) = bytes.next() {
        text.push(if *byte == b'\\' { *bytes.next().unwrap_or(byte) } else { *byte });
    }
    text
}

/// The paths that match, sorted; none when nothing does.
pub(crate) fn glob(pattern: &[u8]) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    if is_pattern(pattern) {
        walk(Vec::new(), pattern, &mut found);
        found.sort_unstable();
    }
    found
}

fn walk(prefix: Vec<u8>, pattern: &[u8], found: &mut Vec<Vec<u8>>) {
    let slashes = pattern.iter().take_while(|byte| **byte == b'/').count();
    let mut prefix = prefix;
    prefix.extend_from_slice(&pattern[..slashes]);
    let pattern = &pattern[slashes..];
    if pattern.is_empty() {
        if system::stat(&prefix).is_ok() {
            found.push(prefix);
        }
        return;
    }
    let end = pattern.iter().position(|byte| *byte == b'/').unwrap_or(pattern.len());
    // A slash cannot be quoted away: `\/` is a slash.
    let (component, rest) = pattern.split_at(end);
    let component = component.strip_suffix(b"\\").filter(|_| !rest.is_empty()).unwrap_or(component);
    if !is_pattern(component) {
        prefix.extend(unescape(component));
        if !rest.is_empty() {
            walk(prefix, rest, found);
        } else if system::lstat(&prefix).is_ok() {
            found.push(prefix);
        }
        return;
    }
    let hidden = component.starts_with(b".") || component.starts_with(b"\\.");
    for entry in system::entries(&prefix).unwrap_or_default() {
        if (entry[0] != b'.' || hidden) && matches(component, &entry) {
            let mut path = prefix.clone();
            path.extend_from_slice(&entry);
            if rest.is_empty() {
                found.push(path);
            } else if system::stat(&path).is_ok_and(|status| status.is_directory()) {
                walk(path, rest, found);
            }
        }
    }
    if hidden && rest.is_empty() {
        for entry in [&b"."[..], b".."] {
            if matches(component, entry) {
                found.push([&prefix, entry].concat());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    fn check(pattern: &str, text: &str, expected: bool) {
        assert_eq!(matches(pattern.as_bytes(), text.as_bytes()), expected, "{pattern} {text}");
    }

    #[test]
    fn elements() {
        check("", "", true);
        check("*", "", true);
        check("a*b*c", "aXbYbZc", true);
        check("a*b*c", "aXbYbZ", false);
        check("?", "", false);
        check("[a-c]x", "bx", true);
        check("[!a-c]x", "bx", false);
        check("[]]", "]", true);
        check("[", "[", true);
        check("[a", "[a", true);
        check("[[:digit:]]*", "7up", true);
        check("\\*", "*", true);
        check("\\*", "a", false);
        check("[\\]]", "]", true);
    }

    #[test]
    fn many_stars_end_soon() {
        check(&"*a".repeat(50), &"a".repeat(10_000), true);
        check(&format!("{}b", "*a".repeat(50)), &"a".repeat(2_000), false);
    }
}
