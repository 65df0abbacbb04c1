//! Referrers: manifests that say something about another one (signatures, attestations), and how to find them.
//!
//! Follows the distribution spec 1.1 (listing referrers, and its tag schema for registries without). Registries do not
//! agree on it: some answer 404, some an empty list whatever there is, some echo `OCI-Subject` and keep nothing. So what
//! counts is what the list says: [`attach`] looks whether a manifest that was pushed is in its subject's list, and
//! writes the tag of the fallback when it is not; [`Client::referrers`] reads both.
//!
//! What must hold: a failure to read a list is a failure and never an empty list; pages, entries and bytes are bounded;
//! a next page is asked of the same registry only.

use std::collections::BTreeMap;

use reqwest::header::{ACCEPT, CONTENT_TYPE, HeaderMap, LINK};
use reqwest::{Method, RequestBuilder, StatusCode, Url};

use super::http::{Host, explain, limited};
use super::push::Push;
use super::{Client, header};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::manifest::{Descriptor, Document, Index, MANIFEST_BYTES, media_type};
use crate::reference::Reference;
use crate::store::Store;

/// Pages of one list that are read.
const MOST_PAGES: usize = 64;
/// Entries of one list that are read.
const MOST_REFERRERS: usize = 8192;
/// Tries to write the list of the fallback while others write it, too.
const TRIES: usize = 3;
/// The header that says that a registry has filtered (distribution spec 1.1).
const FILTERS: &str = "oci-filters-applied";

/// The tag of the fallback for a subject (distribution spec 1.1, referrers tag schema).
fn fallback_tag(subject: &Digest) -> String {
    let text = format!("{}-{}", subject.algorithm().name(), subject.hex());
    // A tag has at most 128 characters; a longer digest is cut, as the specification says.
    text.chars().take(128).collect()
}

impl Client {
    /// The manifests of a repository that name `subject`, all or those of one artifact type, in the order of their
    /// digests.
    ///
    /// # Errors
    ///
    /// [`Error::Registry`] and [`Error::Auth`] when a list cannot be read: none is no answer then. [`Error::Limit`]
    /// for a list without end.
    pub fn referrers(
        &self,
        repository: &Reference,
        subject: &Digest,
        artifact_type: Option<&str>,
    ) -> Result<Vec<Descriptor>> {
        let host = self.host(repository)?;
        let list = List { host: &host, repository: repository.repository(), subject };
        let found = self.runtime.block_on(async {
            let mut found = list.of_the_registry(artifact_type).await?.unwrap_or_default();
            if found.is_empty() {
                found = list.of_the_fallback().await?.map(|(_, found)| found).unwrap_or_default();
            }
            Ok::<_, Error>(found)
        })?;
        let wanted = |entry: &Descriptor| {
            artifact_type.is_none_or(|wanted| entry.artifact_type.as_deref() == Some(wanted))
        };
        let found = found.into_iter().filter(wanted).map(|entry| (entry.digest, entry));
        Ok(found.collect::<BTreeMap<_, _>>().into_values().collect())
    }
}

/// The list of one subject.
struct List<'l> {
    host: &'l Host,
    repository: &'l str,
    subject: &'l Digest,
}

impl List<'_> {
    fn scope(&self) -> String {
        format!("repository:{}:pull", self.repository)
    }

    fn failed(&self, status: Option<u16>, message: String) -> Error {
        let operation = format!("cannot list what refers to `{}@{}`", self.repository, self.subject);
        Error::Registry { operation, status, message }
    }

    async fn index(&self, url: &Url) -> Result<Option<(Index, HeaderMap)>> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, header(media_type::INDEX)?);
        let response = self.host.get_following(url, &self.scope(), &headers).await?;
        let status = response.status();
        // What a registry without the question says of it.
        if matches!(status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED | StatusCode::BAD_REQUEST)
        {
            return Ok(None);
        }
        if !status.is_success() {
            return Err(self.failed(Some(status.as_u16()), explain(response).await));
        }
        let kind = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        if kind.is_none_or(|kind| !kind.starts_with(media_type::INDEX)) {
            // A page for humans, or for another question.
            return Ok(None);
        }
        let headers = response.headers().clone();
        let body =
            limited(response, MANIFEST_BYTES as usize).await.map_err(|reason| self.failed(None, reason))?;
        match Document::parse(&body, media_type::INDEX)? {
            Document::Index(index) => Ok(Some((*index, headers))),
            Document::Manifest(_) => Err(self.failed(None, "the answer is no index".to_owned())),
        }
    }

    /// What the registry itself lists; none when it does not know the question.
    async fn of_the_registry(&self, artifact_type: Option<&str>) -> Result<Option<Vec<Descriptor>>> {
        let mut url = self.host.url(&format!("{}/referrers/{}", self.repository, self.subject))?;
        if let Some(wanted) = artifact_type {
            url.query_pairs_mut().append_pair("artifactType", wanted);
        }
        let mut found = Vec::new();
        for _ in 0..MOST_PAGES {
            let Some((index, headers)) = self.index(&url).await? else {
                return if found.is_empty() {
                    Ok(None)
                } else {
                    Err(self.failed(None, "a page of the list is missing".to_owned()))
                };
            };
            tracing::debug!(
                entries = index.manifests.len(),
                filtered = headers.contains_key(FILTERS),
                "referrers"
            );
            found.extend(index.manifests);
            if found.len() > MOST_REFERRERS {
                return Err(self.limit("MOST_REFERRERS", MOST_REFERRERS));
            }
            let Some(next) = next_page(&url, &headers) else { return Ok(Some(found)) };
            if next.origin() != url.origin() {
                return Err(self.failed(None, "the next page is elsewhere".to_owned()));
            }
            url = next;
        }
        Err(self.limit("MOST_PAGES", MOST_PAGES))
    }

    fn limit(&self, name: &'static str, limit: usize) -> Error {
        Error::Limit {
            what: format!("the list of referrers of `{}`", self.subject),
            name,
            limit: limit as u64,
        }
    }

    /// What the tag of the fallback lists.
    async fn of_the_fallback(&self) -> Result<Option<(Index, Vec<Descriptor>)>> {
        let tag = fallback_tag(self.subject);
        let url = self.host.url(&format!("{}/manifests/{tag}", self.repository))?;
        Ok(self.index(&url).await?.map(|(index, _)| {
            let manifests = index.manifests.clone();
            (index, manifests)
        }))
    }
}

/// `Link: <…>; rel="next"` (RFC 8288).
fn next_page(from: &Url, headers: &HeaderMap) -> Option<Url> {
    let links = headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok());
    let next = links.flat_map(|value| value.split(',')).find_map(|link| {
        let (target, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let is_next = parameters.split(';').any(|one| matches!(one.trim(), "rel=\"next\"" | "rel=next"));
        is_next.then_some(target)
    })?;
    from.join(next).ok()
}

/// What a manifest or index of the store says something about, and how it is listed there.
pub(super) fn subject_of(store: &Store, document: &Descriptor) -> Result<Option<(Descriptor, Descriptor)>> {
    if !media_type::is_index(&document.media_type) && !media_type::is_manifest(&document.media_type) {
        return Ok(None);
    }
    let bytes = store.blob_bytes(&document.digest, MANIFEST_BYTES)?;
    let (subject, artifact_type, annotations) = match Document::parse(&bytes, &document.media_type)? {
        Document::Manifest(manifest) => {
            // The config's type is the artifact's where that is not said (image spec 1.1, manifest.md).
            let kind = manifest.artifact_type.or(Some(manifest.config.media_type));
            (manifest.subject, kind, manifest.annotations)
        }
        Document::Index(index) => (index.subject, index.artifact_type, index.annotations),
    };
    let Descriptor { media_type, digest, size, .. } = document;
    let listed = Descriptor { artifact_type, annotations, ..Descriptor::new(media_type, *digest, *size) };
    Ok(subject.map(|subject| (subject, listed)))
}

/// Makes sure that a manifest that was pushed is found by its subject.
pub(super) fn attach(push: &Push<'_>, document: &Descriptor) -> Result<()> {
    let Some((subject, listed)) = subject_of(push.store, document)? else { return Ok(()) };
    let list = List { host: &push.host, repository: push.repository(), subject: &subject.digest };
    push.client.runtime.block_on(async {
        let has = |found: &[Descriptor]| found.iter().any(|entry| entry.digest == listed.digest);
        if list.of_the_registry(None).await?.is_some_and(|found| has(&found)) {
            return Ok(());
        }
        for _ in 0..TRIES {
            let mut index = match list.of_the_fallback().await? {
                Some((_, found)) if has(&found) => return Ok(()),
                Some((index, _)) => index,
                None => Index::new(Vec::new()),
            };
            if index.manifests.len() >= MOST_REFERRERS {
                return Err(list.limit("MOST_REFERRERS", MOST_REFERRERS));
            }
            index.manifests.push(listed.clone());
            let bytes = index.to_bytes();
            let tag = fallback_tag(&subject.digest);
            let url = push.host.url(&format!("{}/manifests/{tag}", push.repository()))?;
            let build =
                |request: RequestBuilder| request.header(CONTENT_TYPE, media_type::INDEX).body(bytes.clone());
            let response = push.host.send(Method::PUT, &url, &push.scope(), true, build).await?;
            if !response.status().is_success() {
                return Err(push.unexpected(response).await);
            }
            // Somebody else may have written it at the same time: it is read again.
        }
        match list.of_the_fallback().await? {
            Some((_, found)) if has(&found) => Ok(()),
            _ => {
                Err(push
                    .failed(None, format!("the list of referrers of `{}` does not keep it", subject.digest)))
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_lead_to_the_next_page() {
        let from: Url = "https://r.example/v2/a/referrers/sha256:00".parse().unwrap();
        let check = |link: &str, expected: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(LINK, header(link).unwrap());
            assert_eq!(next_page(&from, &headers).as_ref().map(Url::as_str), expected, "{link}");
        };
        check("</v2/a/referrers/x?n=2>; rel=\"next\"", Some("https://r.example/v2/a/referrers/x?n=2"));
        check("</a>; rel=prev, </b>; rel=next", Some("https://r.example/b"));
        check("<https://evil.example/>; rel=\"next\"", Some("https://evil.example/"));
        check("</a>; rel=\"prev\"", None);
        check("nonsense", None);
    }

    #[test]
    fn the_tag_of_the_fallback_is_the_digest_cut_to_a_tag() {
        let digest = Digest::of(b"");
        assert_eq!(fallback_tag(&digest), format!("sha256-{}", digest.hex()));
        let long: Digest = format!("sha512:{}", "0".repeat(128)).parse().unwrap();
        assert_eq!(fallback_tag(&long).len(), 128);
    }
}
