//! `--annotation`: on what, for which platform, name and value.
//!
//! As in buildx a scope may stand before the name, `index,manifest[linux/amd64]:NAME=VALUE`; without one it is the
//! manifest's.

use std::collections::BTreeMap;

use cooper_image::platform::Platform;

use crate::failure::Failure;

/// What an annotation is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scope {
    Manifest,
    ManifestDescriptor,
    Index,
    IndexDescriptor,
}

const SCOPES: &[(&str, Scope)] = &[
    ("manifest", Scope::Manifest),
    ("manifest-descriptor", Scope::ManifestDescriptor),
    ("index", Scope::Index),
    ("index-descriptor", Scope::IndexDescriptor),
];

/// All annotations of a build.
#[derive(Clone, Debug, Default)]
pub(super) struct Annotations(Vec<Annotation>);

#[derive(Clone, Debug)]
struct Annotation {
    scope: Scope,
    platform: Option<Platform>,
    name: String,
    value: String,
}

impl Annotations {
    pub(super) fn parse(texts: &[String]) -> Result<Self, Failure> {
        let mut all = Vec::new();
        for text in texts {
            let wrong = || Failure::usage(format!("invalid --annotation `{text}`: expected NAME=VALUE"));
            let (name, value) = text.split_once('=').ok_or_else(wrong)?;
            let (scopes, name) = match name.split_once(':').map(|(head, name)| (scopes(head), name)) {
                Some((Some(scopes), name)) => (scopes?, name),
                _ => (vec![(Scope::Manifest, None)], name),
            };
            if name.is_empty() {
                return Err(wrong());
            }
            for (scope, platform) in scopes {
                all.push(Annotation { scope, platform, name: name.to_owned(), value: value.to_owned() });
            }
        }
        Ok(Self(all))
    }

    /// Those of the manifest of a platform.
    pub(super) fn of_manifest(&self, platform: &Platform) -> BTreeMap<String, String> {
        self.of(Scope::Manifest, platform)
    }

    /// Those of the index's entry for a platform.
    pub(super) fn of_descriptor(&self, platform: &Platform) -> BTreeMap<String, String> {
        self.of(Scope::ManifestDescriptor, platform)
    }

    /// Those of the entry of the index in a layout.
    pub(super) fn of_index_descriptor(&self) -> BTreeMap<String, String> {
        self.pairs(|annotation| annotation.scope == Scope::IndexDescriptor)
    }

    /// Those of the index.
    pub(super) fn of_index(&self) -> BTreeMap<String, String> {
        self.pairs(|annotation| annotation.scope == Scope::Index)
    }

    /// Fails where something is for an index that is not made.
    pub(super) fn without_index(&self) -> Result<(), Failure> {
        match self.0.iter().find(|annotation| annotation.scope != Scope::Manifest) {
            Some(annotation) => {
                let (scope, _) =
                    SCOPES.iter().find(|(_, scope)| *scope == annotation.scope).unwrap_or(&SCOPES[0]);
                let name = &annotation.name;
                Err(Failure::usage(format!(
                    "--annotation `{scope}:{name}` needs an index: build several platforms"
                )))
            }
            None => Ok(()),
        }
    }

    fn of(&self, scope: Scope, platform: &Platform) -> BTreeMap<String, String> {
        self.pairs(|annotation| {
            annotation.scope == scope
                && annotation.platform.as_ref().is_none_or(|wanted| platform.satisfies(wanted))
        })
    }

    fn pairs(&self, takes: impl Fn(&Annotation) -> bool) -> BTreeMap<String, String> {
        let taken = self.0.iter().filter(|annotation| takes(annotation));
        taken.map(|annotation| (annotation.name.clone(), annotation.value.clone())).collect()
    }
}

type Scopes = Vec<(Scope, Option<Platform>)>;

/// Reads what stands before the colon; none when it is part of the name.
fn scopes(head: &str) -> Option<Result<Scopes, Failure>> {
    let mut scopes = Vec::new();
    for part in head.split(',') {
        let (name, platform) = match part.split_once('[') {
            Some((name, platform)) => (name, Some(platform.strip_suffix(']')?)),
            None => (part, None),
        };
        let (_, scope) = SCOPES.iter().find(|(known, _)| *known == name)?;
        let platform = match platform.map(str::parse::<Platform>) {
            Some(Err(error)) => return Some(Err(error.into())),
            Some(Ok(platform)) => Some(platform),
            None => None,
        };
        scopes.push((*scope, platform));
    }
    Some(Ok(scopes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_stand_before_the_name() {
        let texts = [
            "a=1",
            "index,manifest[linux/arm64]:b=2",
            "com.x:y=3",
            "manifest-descriptor:c=4=5",
            "index-descriptor:d=6",
        ];
        let all = Annotations::parse(&texts.map(str::to_owned)).ok().unwrap_or_default();
        let shown = |pairs: BTreeMap<String, String>| {
            pairs.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(" ")
        };
        let arm = Platform::new("linux", "arm64", None);
        assert_eq!(shown(all.of_manifest(&Platform::linux_amd64())), "a=1 com.x:y=3");
        assert_eq!(shown(all.of_manifest(&arm)), "a=1 b=2 com.x:y=3");
        assert_eq!(shown(all.of_index()), "b=2");
        assert_eq!(shown(all.of_descriptor(&arm)), "c=4=5");
        assert_eq!(shown(all.of_index_descriptor()), "d=6");
        assert!(all.without_index().is_err());
        assert!(Annotations::parse(&["a".to_owned()]).is_err());
        assert!(Annotations::parse(&["manifest[x]:a=1".to_owned()]).is_err());
    }
}
