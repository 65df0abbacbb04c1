//! From a reference to an image in the store: what is here, or what a registry has.

use crate::error::{Error, Result};
use crate::image::ImageRecord;
use crate::platform::Platform;
use crate::progress::Reporter;
use crate::reference::Reference;
use crate::registry::Client;
use crate::store::Store;

/// When to ask the registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PullPolicy {
    /// When the store does not have the image. What `FROM` does.
    Missing,
    /// Always; blobs that are here are not fetched again. What `--pull` does.
    Always,
    /// Never.
    Never,
}

/// Finds the image of a reference, from the store or its registry, and keeps it under the reference's tag.
///
/// # Errors
///
/// [`Error::NotFound`] when nobody has it, those of [`Client::resolve`] and of [`Store::import`].
pub fn resolve(
    store: &Store,
    client: &Client,
    reference: &Reference,
    platform: &Platform,
    policy: PullPolicy,
    reporter: &dyn Reporter,
) -> Result<ImageRecord> {
    // What a digest names does not change, so there is nothing to ask.
    if (policy != PullPolicy::Always || reference.digest().is_some())
        && let Some(image) = store.find(reference, platform)?
    {
        return Ok(image);
    }
    if policy == PullPolicy::Never {
        return Err(Error::NotFound { what: format!("image `{reference}` in the store") });
    }
    let remote = client.resolve(reference)?;
    let image = store.import(&remote, remote.root(), platform, reporter)?;
    if reference.tag().is_some() && reference.digest().is_none() {
        store.tag_image(reference, &image)?;
    }
    Ok(image)
}
