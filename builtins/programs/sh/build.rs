//! Asks for the stack that commands inside one another need: the linker's default for modules is 1 MiB.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    #[expect(clippy::disallowed_methods, reason = "how Cargo tells a build script its target")]
    let family = std::env::var("CARGO_CFG_TARGET_FAMILY");
    if family.is_ok_and(|family| family == "wasm") {
        // `sh/src/system.rs`, `stack_limit`, knows the size.
        println!("cargo::rustc-link-arg-bins=-zstack-size=8388608");
    }
}
