//! Archives and compressed files.

mod codec;
mod compress;
mod extract;
mod header;
mod tar;
mod unzip;

/// Runs the tool that the program's name picks.
fn main() -> std::process::ExitCode {
    toolbox_command::run(&[
        compress::BUNZIP2,
        compress::BZCAT,
        compress::BZIP2,
        compress::GUNZIP,
        compress::GZIP,
        compress::UNXZ,
        compress::UNZSTD,
        compress::XZ,
        compress::XZCAT,
        compress::ZCAT,
        compress::ZSTD,
        compress::ZSTDCAT,
        tar::TAR,
        unzip::UNZIP,
    ])
}
