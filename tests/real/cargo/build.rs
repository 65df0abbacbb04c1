//! Passes a constant on to the program.

fn main() {
    println!("cargo:rustc-env=LIMIT=1000");
}
