//! What registries of the world do otherwise than the specification says, or than one would think.

use super::{FakeRegistry, Reply, Request};
use crate::digest::Digest;
use crate::manifest::{Descriptor, Document, Index, Manifest, media_type};

/// The largest chunk with `Content-Range` that GHCR takes, in bytes.
const LARGEST_CHUNK: usize = 4 << 20;
/// Entries of one page of referrers.
const PAGE: usize = 2;

/// One way to be different.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Quirk {
    /// A chunk with `Content-Range` of more than 4 MiB is 416 (GHCR).
    SmallChunks,
    /// The first end of an upload in each repository is 404, and the upload is forgotten (GHCR).
    ForgetsUploads,
    /// Every fifth request is 429 (GHCR's second limit).
    LimitsRequests,
    /// A `PUT` with contents is 404 (old Artifactory).
    NoWholeUploads,
    /// Uploads in pieces are 405; only the `PUT` of everything is taken.
    NoPatches,
    /// Mounts are not known: 202.
    NoMounts,
    /// The token service answers 404 for two repositories at once (GitLab).
    NoTokensForMounts,
    /// The token service answers 404 the first time (GitLab).
    TokenStumbles,
    /// Indexes are 404 (old Gitea; ECR for cache indexes).
    NoIndexes,
    /// A manifest that was taken gets no `Location` (ECR).
    NoLocation,
    /// A config without a history entry for each layer is refused (Artifactory).
    WantsHistory,
    /// Only configs of images are taken (Quay).
    WantsImageConfig,
    /// A tag is set once (ECR).
    ImmutableTags,
    /// The first question for each manifest is 404, while the proxy asks its own registry (Harbor).
    ProxyStumbles,
    /// There are no referrers: 404, and no `OCI-Subject` (GHCR, Docker Hub, distribution).
    NoReferrers,
    /// Referrers are always an empty list, and `OCI-Subject` is echoed all the same.
    EmptyReferrers,
    /// Referrers come in pages of two.
    PagedReferrers,
    /// A page of referrers that leads to itself.
    EndlessReferrers,
}

impl FakeRegistry {
    fn has(&self, quirk: Quirk) -> bool {
        self.state().quirks.contains(&quirk)
    }

    /// Whether this is asked for the first time.
    fn stumbles(&self, what: &str) -> bool {
        self.state().stumbled.insert(what.to_owned())
    }

    /// Answers as a registry with the quirks does.
    pub(super) fn answer_as(&self, request: &Request) -> Reply {
        if self.has(Quirk::LimitsRequests) && self.state().seen.len().is_multiple_of(5) {
            return Reply::error(429, "TOOMANYREQUESTS").with("Retry-After", 0);
        }
        if let Some(refusal) = self.refuses(request) {
            return refusal;
        }
        let mut reply = self.answer(request);
        if self.has(Quirk::NoLocation) && request.path.contains("/manifests/") {
            reply.headers.retain(|(name, _)| name != "Location");
        }
        reply
    }

    fn refuses(&self, request: &Request) -> Option<Reply> {
        let Request { method, path, headers, body, .. } = request;
        let is_upload = path.contains("/blobs/uploads/");
        let manifest = path.rsplit_once("/manifests/");
        let says = |quirk: Quirk, when: bool, status: u16, code: &str| {
            (when && self.has(quirk)).then(|| Reply::error(status, code))
        };
        let large = headers.contains_key("content-range") && body.len() > LARGEST_CHUNK;
        let two = request.raw_query.matches("scope=").count() > 1;
        let repository = path.split("/blobs/").next().unwrap_or_default();
        says(Quirk::SmallChunks, method == "PATCH" && large, 416, "BLOB_UPLOAD_INVALID")
            .or_else(|| {
                let end = is_upload && method == "PUT" && self.has(Quirk::ForgetsUploads);
                (end && self.stumbles(&format!("upload {repository}"))).then(|| {
                    self.state().uploads.clear();
                    Reply::error(404, "BLOB_UPLOAD_UNKNOWN")
                })
            })
            .or_else(|| {
                let whole = is_upload && method == "PUT" && !body.is_empty();
                says(Quirk::NoWholeUploads, whole, 404, "BLOB_UPLOAD_UNKNOWN")
            })
            .or_else(|| says(Quirk::NoPatches, is_upload && method == "PATCH", 405, "UNSUPPORTED"))
            .or_else(|| says(Quirk::NoTokensForMounts, path == "/token" && two, 404, "NOT_FOUND"))
            .or_else(|| {
                let stumbles = self.has(Quirk::TokenStumbles) && path == "/token" && self.stumbles("token");
                stumbles.then(|| Reply::error(404, "NOT_FOUND"))
            })
            .or_else(|| {
                let asks = method == "GET" && manifest.is_some() && self.has(Quirk::ProxyStumbles);
                (asks && self.stumbles(path)).then(|| Reply::error(404, "NOT_FOUND"))
            })
            .or_else(|| {
                let (repository, name) = manifest.filter(|_| method == "PUT")?;
                self.refuses_manifest(repository.strip_prefix("/v2/")?, name, request)
            })
            .or_else(|| says(Quirk::NoReferrers, path.contains("/referrers/"), 404, "NOT_FOUND"))
    }

    fn refuses_manifest(&self, repository: &str, name: &str, request: &Request) -> Option<Reply> {
        let kind = request.headers.get("content-type").cloned().unwrap_or_default();
        if self.has(Quirk::ImmutableTags) && self.tags(repository).iter().any(|tag| tag == name) {
            return Some(Reply::error(400, "TAG_INVALID"));
        }
        match Document::parse(&request.body, &kind).ok()? {
            Document::Index(_) => self.has(Quirk::NoIndexes).then(|| Reply::error(404, "MANIFEST_INVALID")),
            Document::Manifest(manifest) => {
                let Manifest { config, layers, .. } = *manifest;
                let wrong_config =
                    self.has(Quirk::WantsImageConfig) && !media_type::is_config(&config.media_type);
                let no_history =
                    self.has(Quirk::WantsHistory) && !self.has_history(&config.digest, layers.len());
                (wrong_config || no_history).then(|| Reply::error(400, "MANIFEST_INVALID"))
            }
        }
    }

    /// Whether a config says how each layer came to be.
    fn has_history(&self, config: &Digest, layers: usize) -> bool {
        let state = self.state();
        let Some(config) = state.blobs.get(config) else { return false };
        let value: serde_json::Value = serde_json::from_slice(config).unwrap_or_default();
        let entries = value["history"].as_array().map(Vec::as_slice).unwrap_or_default();
        let with_layer = entries.iter().filter(|entry| entry["empty_layer"] != serde_json::json!(true));
        with_layer.count() == layers
    }

    /// The manifests that name another one as their subject (distribution spec 1.1, listing referrers).
    pub(super) fn referrers(&self, request: &Request, repository: &str, subject: &str) -> Reply {
        let state = self.state();
        let empty = state.quirks.contains(&Quirk::EmptyReferrers);
        let mut found: Vec<Descriptor> = Vec::new();
        let manifests = state.repositories.get(repository).map(|found| &found.manifests);
        for (name, (kind, bytes)) in manifests.into_iter().flatten() {
            let Ok(Document::Manifest(manifest)) = Document::parse(bytes, kind) else { continue };
            let is_it = manifest.subject.as_ref().is_some_and(|it| it.digest.to_string() == subject);
            if name.contains(':') && is_it && !empty {
                let artifact_type = manifest.artifact_type.clone();
                found.push(Descriptor {
                    artifact_type,
                    annotations: manifest.annotations.clone(),
                    ..Descriptor::of(kind, bytes)
                });
            }
        }
        found.sort_by_key(|entry| entry.digest);
        let at: usize = request.query.get("at").and_then(|at| at.parse().ok()).unwrap_or(0);
        let reply = Reply::new(200).with("Content-Type", media_type::INDEX);
        let next = |at: usize| format!("<{}?at={at}>; rel=\"next\"", request.path);
        if state.quirks.contains(&Quirk::EndlessReferrers) {
            return reply.with("Link", next(at)).body(Index::new(found).to_bytes());
        }
        if !state.quirks.contains(&Quirk::PagedReferrers) {
            return reply.body(Index::new(found).to_bytes());
        }
        let more = found.len() > at + PAGE;
        let page = Index::new(found.into_iter().skip(at).take(PAGE).collect()).to_bytes();
        if more { reply.with("Link", next(at + PAGE)).body(page) } else { reply.body(page) }
    }
}
