//! The harness itself, without cooper: what it compares with has to be right first.

use std::process::ExitCode;

use anyhow::{Result, ensure};
use cooper_tests::bases::Base;
use cooper_tests::listing::{Listing, Times};
use cooper_tests::machine::Need;
use cooper_tests::registry::{Access, Registry};
use cooper_tests::runtime::Bundle;
use cooper_tests::suite::{self, case};

fn main() -> ExitCode {
    let registry = [Need::BUSYBOX, Need::REGISTRY, Need::SKOPEO];
    let runtime = [Need::BUSYBOX, Need::MUSL, Need::UMOCI, Need::RUNC, Need::Root];
    let cases = vec![
        case("an image comes back from a registry as it was", &registry, || round_trip(Access::Anonymous)),
        case("an image comes back from a registry with a password", &registry, || round_trip(Access::Basic)),
        case("our listing of an image is umoci's", &runtime, listing),
        case("an image starts in runc", &runtime, starts),
    ];
    suite::main("harness", cases)
}

fn round_trip(access: Access) -> Result<()> {
    let registry = Registry::with(access)?;
    let image = Base::Busybox.image()?;
    registry.put(&image, "tests/busybox:1")?;
    let back = registry.get("tests/busybox:1")?;
    ensure!(back.digest == image.digest, "{} became {}", image.digest, back.digest);
    Ok(())
}

fn listing() -> Result<()> {
    let image = Base::Musl.image()?;
    let unpacked = Bundle::unpack(&image)?.listing()?;
    Listing::of_image(&image)?.expect_same(&unpacked, Times::Compared, "our listing and umoci's")
}

fn starts() -> Result<()> {
    let bundle = Bundle::unpack(&Base::Musl.image()?)?;
    let out = bundle.run(&["sh", "-c", "id -u; exit 4"])?.exits(4)?;
    ensure!(out.text() == "0", "{out:?}");
    Ok(())
}
