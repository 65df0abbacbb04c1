//! `cooper-listing LAYOUT [TAG]`: prints the file system of an image in an OCI layout in the form of
//! `tests/data/dockerfiles/*.listing`, which were recorded from images that a real BuildKit built.
#![allow(clippy::print_stdout, reason = "a program of the host")]

use std::path::Path;

use anyhow::{Context, Result};
use cooper_tests::listing::Listing;
use cooper_tests::oci;

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let layout = arguments.first().context("usage: cooper-listing LAYOUT [TAG]")?;
    let tag = arguments.get(1).map_or("latest", String::as_str);
    print!("{}", Listing::of_image(&oci::read(Path::new(layout), tag)?)?.recorded());
    Ok(())
}
