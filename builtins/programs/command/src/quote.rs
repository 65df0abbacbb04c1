//! Names in messages, quoted as GNU's tools do in the locale C, so that a shell reads them back.

/// A name that is always in quotes: `'name'`.
#[must_use]
pub fn always(name: &[u8]) -> String {
    shell(name, true)
}

/// A name that is in quotes only if a shell or a reader could take it wrongly.
#[must_use]
pub fn if_needed(name: &[u8]) -> String {
    // The colon separates a name from its message.
    shell(name, name.contains(&b':'))
}

/// A name as `ls` shows it on a terminal: in quotes if a shell needs them.
#[must_use]
pub fn for_shell(name: &[u8]) -> String {
    shell(name, false)
}

fn is_special(at: usize, byte: u8) -> bool {
    match byte {
        b' ' | b'!' | b'"' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b';' | b'<' | b'=' | b'>' | b'?'
        | b'[' | b'\\' | b'^' | b'`' | b'|' => true,
        b'#' | b'~' => at == 0,
        _ => false,
    }
}

fn shell(name: &[u8], force: bool) -> String {
    let special = name.is_empty()
        || name.iter().enumerate().any(|(at, &byte)| is_special(at, byte))
        || matches!(name, b"{" | b"}");
    let printable = name.iter().all(|byte| matches!(byte, b' '..=b'~'));
    let text = String::from_utf8_lossy(name);
    match (printable, force || special) {
        (true, false) => text.into_owned(),
        (true, true) if name.contains(&b'\'') && !name.iter().any(|byte| b"\"$`\\!".contains(byte)) => {
            format!("\"{text}\"")
        }
        (true, true) => format!("'{}'", text.replace('\'', "'\\''")),
        (false, _) => escaped(name),
    }
}

/// Printable runs in `'…'`, the others in `$'…'`.
fn escaped(name: &[u8]) -> String {
    let (mut text, mut in_escape) = (String::from("'"), false);
    for &byte in name {
        let printable = matches!(byte, b' '..=b'~');
        match (printable, in_escape) {
            (true, true) => text.push_str("''"),
            (false, false) => text.push_str("'$'"),
            _ => {}
        }
        in_escape = !printable;
        match byte {
            b'\'' => text.push_str("'\\''"),
            b'\n' => text.push_str("\\n"),
            b'\t' => text.push_str("\\t"),
            b'\r' => text.push_str("\\r"),
            7 => text.push_str("\\a"),
            8 => text.push_str("\\b"),
            11 => text.push_str("\\v"),
            12 => text.push_str("\\f"),
            _ if printable => text.push(char::from(byte)),
            _ => text.push_str(&format!("\\{byte:03o}")),
        }
    }
    text + "'"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_those_of_gnu() {
        for (name, needed, all) in [
            (&b"plain"[..], "plain", "'plain'"),
            (b"a b", "'a b'", "'a b'"),
            (b"it's", "\"it's\"", "\"it's\""),
            (b"it's $x", "'it'\\''s $x'", "'it'\\''s $x'"),
            (b"a\nb", "'a'$'\\n''b'", "'a'$'\\n''b'"),
            (b"caf\xc3\xa9", "'caf'$'\\303\\251'", "'caf'$'\\303\\251'"),
            (b"", "''", "''"),
            (b"#a", "'#a'", "'#a'"),
            (b"a#", "a#", "'a#'"),
            (b"a:b", "'a:b'", "'a:b'"),
        ] {
            assert_eq!((if_needed(name).as_str(), always(name).as_str()), (needed, all));
        }
    }
}
