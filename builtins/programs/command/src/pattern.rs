//! Patterns of file names, as `fnmatch` reads them, on bytes.

/// A slash is matched only by itself.
pub const PATHNAME: u32 = 1;
/// A dot at the start (with `PATHNAME`, of each name) is matched only by itself.
pub const PERIOD: u32 = 2;
/// A backslash is an ordinary byte.
pub const NOESCAPE: u32 = 4;
/// Letters match in both cases.
pub const CASEFOLD: u32 = 8;
/// `*` does not begin behind a slash: `a/*` also matches what lies deeper.
pub const LEADING_DIRECTORY: u32 = 16;

/// Whether the whole name matches the pattern.
#[must_use]
pub fn matches(pattern: &[u8], name: &[u8], flags: u32) -> bool {
    go(pattern, name, true, flags)
}

fn fold(byte: u8, flags: u32) -> u8 {
    if flags & CASEFOLD != 0 { byte.to_ascii_lowercase() } else { byte }
}

/// Backtracks only to the last star, as what is before it need not change.
fn go(mut pattern: &[u8], mut name: &[u8], mut start: bool, flags: u32) -> bool {
    let mut retry: Option<(&[u8], &[u8])> = None;
    loop {
        let hidden = start && flags & PERIOD != 0 && name.first() == Some(&b'.');
        let step = match (pattern, name) {
            ([], []) => return true,
            ([], [b'/', ..]) if flags & LEADING_DIRECTORY != 0 => return true,
            ([b'*', rest @ ..], _) if !hidden => {
                retry = Some((rest, name));
                pattern = rest;
                start = false;
                continue;
            }
            (_, []) => None,
            ([b'?', rest @ ..], [byte, after @ ..]) => {
                let refused = hidden || (*byte == b'/' && flags & PATHNAME != 0);
                (!refused).then_some((rest, after, *byte))
            }
            ([b'[', ..], [byte, after @ ..]) => match bracket(pattern, *byte, flags) {
                Some((found, rest)) => {
                    let refused = hidden || (*byte == b'/' && flags & PATHNAME != 0);
                    (found && !refused).then_some((rest, after, *byte))
                }
                None => (*byte == b'[').then_some((&pattern[1..], after, *byte)),
            },
            ([b'\\', escaped, rest @ ..], [byte, after @ ..]) if flags & NOESCAPE == 0 => {
                (fold(*escaped, flags) == fold(*byte, flags)).then_some((rest, after, *byte))
            }
            ([expected, rest @ ..], [byte, after @ ..]) => {
                (fold(*expected, flags) == fold(*byte, flags)).then_some((rest, after, *byte))
            }
            ([], _) => None,
        };
        match (step, retry) {
            (Some((rest, after, byte)), _) => {
                (pattern, name) = (rest, after);
                start = flags & PATHNAME != 0 && byte == b'/';
            }
            (None, Some((rest, [byte, after @ ..]))) if *byte != b'/' || flags & PATHNAME == 0 => {
                retry = Some((rest, after));
                (pattern, name) = (rest, after);
                start = false;
            }
            _ => return false,
        }
    }
}

/// Whether a byte is in a bracket expression, and what follows the bracket; `None` if it has no end.
fn bracket(pattern: &[u8], byte: u8, flags: u32) -> Option<(bool, &[u8])> {
    let mut rest = &pattern[1..];
    let negated = matches!(rest.first(), Some(b'!' | b'^'));
    if negated {
        rest = &rest[1..];
    }
    let byte = fold(byte, flags);
    let (mut found, mut first) = (false, true);
    loop {
        let (low, after) = match rest {
            [] => return None,
            [b']', after @ ..] if !first => return Some((found != negated, after)),
            [b'[', b':', ..] => {
                let end = rest[2..].windows(2).position(|pair| pair == b":]")? + 2;
                found |= in_class(&rest[2..end], byte, flags & CASEFOLD != 0)?;
                rest = &rest[end + 2..];
                first = false;
                continue;
            }
            [b'[', mark @ (b'.' | b'='), byte, end, b']', after @ ..] if mark == end => (*byte, after),
            [b'\\', byte, after @ ..] if flags & NOESCAPE == 0 => (*byte, after),
            [byte, after @ ..] => (*byte, after),
        };
        first = false;
        rest = after;
        let (low, high) = match rest {
            [b'-', b']', ..] | [] => (low, low),
            [b'-', b'\\', high, after @ ..] if flags & NOESCAPE == 0 => {
                rest = after;
                (low, *high)
            }
            [b'-', high, after @ ..] => {
                rest = after;
                (low, *high)
            }
            _ => (low, low),
        };
        found |= (fold(low, flags)..=fold(high, flags)).contains(&byte);
    }
}

/// Whether a byte is in a POSIX class; `None` if there is no such class.
#[must_use]
pub fn in_class(class: &[u8], byte: u8, caseless: bool) -> Option<bool> {
    Some(match class {
        b"alpha" => byte.is_ascii_alphabetic(),
        b"digit" => byte.is_ascii_digit(),
        b"alnum" => byte.is_ascii_alphanumeric(),
        b"upper" | b"lower" if caseless => byte.is_ascii_alphabetic(),
        b"upper" => byte.is_ascii_uppercase(),
        b"lower" => byte.is_ascii_lowercase(),
        b"space" => matches!(byte, b' ' | 9..=13),
        b"blank" => matches!(byte, b' ' | 9),
        b"punct" => byte.is_ascii_punctuation(),
        b"print" => matches!(byte, b' '..=b'~'),
        b"graph" => byte.is_ascii_graphic(),
        b"cntrl" => byte.is_ascii_control(),
        b"xdigit" => byte.is_ascii_hexdigit(),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_fnmatch_matches() {
        for (pattern, name, flags, expected) in [
            ("*.c", "a.c", 0, true),
            ("*.c", "a.cc", 0, false),
            ("a*b*c", "axxbyybzc", 0, true),
            ("*", ".x", PERIOD, false),
            ("*", ".x", 0, true),
            ("*", "a/b", PATHNAME, false),
            ("*", "a/b", 0, true),
            ("a?c", "abc", 0, true),
            ("[a-c]x", "bx", 0, true),
            ("[!a-c]x", "bx", 0, false),
            ("[]-]", "-", 0, true),
            ("[[:digit:]]*", "7up", 0, true),
            ("\\*", "*", 0, true),
            ("[", "[", 0, true),
            ("ABC", "abc", CASEFOLD, true),
            ("a/*", "a/b/c", PATHNAME | LEADING_DIRECTORY, true),
        ] {
            assert_eq!(matches(pattern.as_bytes(), name.as_bytes(), flags), expected, "{pattern} {name}");
        }
    }
}
