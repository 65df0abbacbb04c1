//! The order of version numbers in names, as `ls -v` and `sort -V` have it.

use std::cmp::Ordering;

/// Compares two names: runs of digits by number, other runs by their letters; a suffix such as `.tar.gz` counts last.
#[must_use]
pub fn compare(left: &[u8], right: &[u8]) -> Ordering {
    if left == right {
        return Ordering::Equal;
    }
    // `.` and `..` come first, then names with a dot.
    for special in [&b""[..], b".", b".."] {
        match (left == special, right == special) {
            (true, false) => return Ordering::Less,
            (false, true) => return Ordering::Greater,
            _ => {}
        }
    }
    match (left[0] == b'.', right[0] == b'.') {
        (true, false) => return Ordering::Less,
        (false, true) => return Ordering::Greater,
        _ => {}
    }
    let bare = |name: &[u8]| name[..name.len() - suffix(name)].to_vec();
    let (short_left, short_right) = (bare(left), bare(right));
    let by_bare = if short_left == short_right { Ordering::Equal } else { runs(&short_left, &short_right) };
    by_bare.then_with(|| runs(left, right)).then_with(|| left.cmp(right))
}

/// Length of an ending of the form `(\.[A-Za-z~][A-Za-z0-9~]*)*`.
fn suffix(name: &[u8]) -> usize {
    let mut start = name.len();
    let mut end = name.len();
    while let Some(dot) = name[..end].iter().rposition(|&byte| byte == b'.') {
        let part = &name[dot + 1..end];
        let good = part.first().is_some_and(|byte| byte.is_ascii_alphabetic() || *byte == b'~')
            && part.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'~');
        if !good || dot == 0 {
            break;
        }
        (start, end) = (dot, dot);
    }
    name.len() - start
}

/// Weight of a byte outside numbers: `~` before the end, the end, letters, the rest.
fn weight(byte: Option<&u8>) -> i32 {
    match byte {
        Some(b'~') => -1,
        None => 0,
        Some(byte) if byte.is_ascii_digit() => 0,
        Some(byte) if byte.is_ascii_alphabetic() => i32::from(*byte),
        Some(byte) => i32::from(*byte) + 256,
    }
}

fn runs(mut left: &[u8], mut right: &[u8]) -> Ordering {
    while !left.is_empty() || !right.is_empty() {
        while left.first().is_some_and(|byte| !byte.is_ascii_digit())
            || right.first().is_some_and(|byte| !byte.is_ascii_digit())
        {
            let order = weight(left.first()).cmp(&weight(right.first()));
            if order != Ordering::Equal {
                return order;
            }
            left = left.get(1..).unwrap_or_default();
            right = right.get(1..).unwrap_or_default();
        }
        let number = |name: &[u8]| -> (Vec<u8>, usize) {
            let count = name.iter().take_while(|byte| byte.is_ascii_digit()).count();
            let zeros = name[..count].iter().take_while(|&&byte| byte == b'0').count();
            (name[zeros..count].to_vec(), count)
        };
        let ((left_number, left_length), (right_number, right_length)) = (number(left), number(right));
        let order = left_number.len().cmp(&right_number.len()).then_with(|| left_number.cmp(&right_number));
        if order != Ordering::Equal {
            return order;
        }
        (left, right) = (&left[left_length..], &right[right_length..]);
    }
    Ordering::Equal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_in_the_order_of_ls() {
        let sorted = [".", "..", ".a", "a", "a1", "a2", "a10", "a10.txt", "b-1.2.tar.gz", "b-1.10.tar.gz"];
        for pair in sorted.windows(2) {
            assert_eq!(compare(pair[0].as_bytes(), pair[1].as_bytes()), Ordering::Less, "{pair:?}");
        }
    }
}
