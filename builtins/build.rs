//! Makes the table of embedded programs from `modules/index`.

#![allow(
    clippy::disallowed_methods,
    reason = "a build script works on the host's files, as Cargo names them"
)]

use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    let modules = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("modules");
    println!("cargo::rerun-if-changed={}", modules.display());
    let index = match fs::read_to_string(modules.join("index")) {
        Ok(index) => index,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error.into()),
    };
    let mut table = String::from("&[\n");
    for line in index.lines().filter(|line| !line.starts_with('#')) {
        let mut words = line.split_whitespace();
        let (Some(name), Some(_sha256), Some(size)) = (words.next(), words.next(), words.next()) else {
            return Err(format!("modules/index has a line that is none: {line}").into());
        };
        let path = modules.join(format!("{name}.wasm.zst"));
        let module = zstd::decode_all(fs::File::open(&path)?)?;
        if module.len() != size.parse::<usize>()? {
            return Err(format!("{}: its size is not what the index says", path.display()).into());
        }
        let names: Vec<&str> = words.collect();
        writeln!(
            table,
            "Program {{ name: {name:?}, module: include_bytes!({path:?}), content: {:?}, size: {size}, names: &{names:?} }},",
            blake3::hash(&module).as_bytes()
        )?;
    }
    table.push(']');
    fs::write(Path::new(&env::var("OUT_DIR")?).join("programs.rs"), table)?;
    Ok(())
}
