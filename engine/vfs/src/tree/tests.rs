//! Tests of trees: codec, builder, walk and diff.

use std::io;

use proptest::prelude::*;

use super::*;
use crate::content::ContentId;
use crate::memory::MemoryStore;
use crate::path;

fn metadata(mode: u16) -> Metadata {
    Metadata::root_owned(mode)
}

fn file(store: &MemoryStore, bytes: &[u8]) -> Entry {
    let kind = NodeKind::File { content: store.put(bytes), size: bytes.len() as u64 };
    Entry { name: Vec::new(), metadata: metadata(0o644), kind }
}

/// Builds a tree from lines: `d path`, `f path bytes`, `l path target` (hard link), `s path target` (symbolic link),
/// `r path` (remove), `o path` (make opaque), `m path mode`.
fn apply(builder: &mut TreeBuilder<'_>, store: &MemoryStore, lines: &str) -> io::Result<()> {
    for line in lines.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split(' ').collect();
        let path = words[1].as_bytes();
        let last = words.last().map_or("", |word| *word);
        match words[0] {
            "d" => builder.put_directory(path, metadata(0o755))?,
            "f" => builder.put(path, file(store, last.as_bytes()))?,
            "l" => builder.hard_link(path, last.as_bytes())?,
            "s" => {
                let kind = NodeKind::Symlink { target: last.as_bytes().to_vec() };
                builder.put(path, Entry { name: Vec::new(), metadata: metadata(0o777), kind })?;
            }
            "r" => assert!(builder.remove(path)?, "{line}"),
            "o" => builder.make_opaque(path)?,
            "m" => {
                let mut metadata = builder.get(path)?.expect("the path exists").metadata;
                metadata.mode = u16::from_str_radix(last, 8).expect("an octal mode");
                builder.set_metadata(path, metadata)?;
            }
            word => panic!("no such line: {word}"),
        }
    }
    Ok(())
}

fn tree(store: &MemoryStore, lines: &str) -> Tree {
    let mut builder = TreeBuilder::new(store);
    apply(&mut builder, store, lines).expect("the lines apply");
    builder.finish().expect("the memory store takes everything")
}

fn changed(store: &MemoryStore, lower: &Tree, lines: &str) -> Tree {
    let mut builder = TreeBuilder::from_tree(store, lower);
    apply(&mut builder, store, lines).expect("the lines apply");
    builder.finish().expect("the memory store takes everything")
}

/// A tree as lines: path, kind or link, mode.
fn show(store: &MemoryStore, tree: &Tree) -> Vec<String> {
    let line = |item: io::Result<WalkItem>| {
        let WalkItem { path, entry, link_to } = item.expect("the memory store has everything");
        let path = String::from_utf8_lossy(&path).into_owned();
        match link_to {
            Some(target) => format!("{path} = {}", String::from_utf8_lossy(&target)),
            None => format!("{path} {:?} {:o}", entry.kind.file_kind(), entry.metadata.mode),
        }
    };
    tree.walk(store).map(line).collect()
}

fn show_changes(changes: &[Change]) -> Vec<String> {
    let text = |path: &[u8]| String::from_utf8_lossy(path).into_owned();
    let line = |change: &Change| match change {
        Change::Upsert { path, link_to: Some(target), .. } => format!("{} = {}", text(path), text(target)),
        Change::Upsert { path, same_content: true, .. } => format!("~ {}", text(path)),
        Change::Upsert { path, .. } => format!("+ {}", text(path)),
        Change::Remove { path } => format!("- {}", text(path)),
        Change::Opaque { path } => format!("! {}", text(path)),
    };
    changes.iter().map(line).collect()
}

/// Applies changes as a layer would be applied.
fn replay(store: &MemoryStore, lower: &Tree, changes: &[Change]) -> Tree {
    let mut builder = TreeBuilder::from_tree(store, lower);
    let step = |change: &Change| match change {
        Change::Remove { path } => builder.remove(path).map(|_| ()),
        Change::Opaque { path } => builder.make_opaque(path),
        Change::Upsert { path, link_to: Some(target), .. } => builder.hard_link(path, target),
        Change::Upsert { path, entry, .. } if entry.kind.is_directory() => {
            if path.is_empty() {
                builder.set_metadata(path, entry.metadata.clone())
            } else {
                builder.put_directory(path, entry.metadata.clone())
            }
        }
        Change::Upsert { path, entry, .. } => builder.put(path, entry.clone()),
    };
    changes.iter().try_for_each(step).expect("changes apply to the tree they start from");
    builder.finish().expect("the memory store takes everything")
}

fn check_diff(lower: &str, steps: &str, expected: &[&str]) {
    let store = MemoryStore::new();
    let lower = tree(&store, lower);
    let upper = changed(&store, &lower, steps);
    let changes = Tree::diff(&store, &lower, &upper).expect("the memory store has everything");
    assert_eq!(show_changes(&changes), expected);
    assert_eq!(replay(&store, &lower, &changes).id(), upper.id());
}

#[test]
fn empty_content_has_the_id_of_no_bytes() {
    assert_eq!(ContentId::of(b""), ContentId::EMPTY);
}

#[test]
fn walk_is_in_tree_order_and_names_links() {
    let store = MemoryStore::new();
    let tree = tree(&store, "d a\n f a/x 1\n f a-b 2\n d b\n l b/y a/x\n s b/z ../a");
    let expected = [
        "a Directory 755",
        "a/x File 644",
        "a-b File 644",
        "b Directory 755",
        "b/y = a/x",
        "b/z Symlink 777",
    ];
    assert_eq!(show(&store, &tree), expected);
}

#[test]
fn links_are_recorded_in_the_lowest_common_directory() {
    let store = MemoryStore::new();
    let tree = tree(&store, "d a\n d a/b\n d a/c\n f a/b/x 1\n l a/c/y a/b/x\n f a/b/p 2\n l a/b/q a/b/p");
    let root = tree.directory(&store).expect("stored");
    assert!(root.hard_links.is_empty());
    let a = tree.lookup(&store, b"a").expect("stored").expect("exists");
    let a = Tree::from_entry(&a).expect("a directory").directory(&store).expect("stored");
    assert_eq!(a.hard_links, vec![vec![b"b/x".to_vec(), b"c/y".to_vec()]]);
}

#[test]
fn equal_trees_have_equal_ids_however_they_came_to_be() {
    let store = MemoryStore::new();
    let once = tree(&store, "d a\n f a/x 1\n l a/y a/x");
    let twice = changed(&store, &tree(&store, "d a\n f a/y 1\n l a/z a/y"), "l a/x a/z\n r a/z");
    assert_eq!(once.id(), twice.id());
}

#[test]
fn diff_of_simple_changes() {
    check_diff("f a 1\n f b 1\n d d\n f d/e 1", "", &[]);
    check_diff("f a 1\n f b 1", "r a\n f c 2", &["- a", "+ c"]);
    check_diff("d d\n f d/a 1\n f d-x 1", "f d/a 2\n f d-x 2", &["+ d/a", "+ d-x"]);
    check_diff("d d\n f d/a 1", "m d 700\n m d/a 600", &["~ d", "~ d/a"]);
    check_diff("d d\n f d/a 1", "r d", &["- d"]);
    check_diff("d d\n f d/a 1", "r d\n f d 1", &["+ d"]);
    check_diff("f d 1", "r d\n d d\n f d/a 1", &["+ d", "+ d/a"]);
    check_diff("d d\n f d/a 1", "r d\n d d\n f d/a 1", &[]);
}

#[test]
fn diff_of_hard_links() {
    check_diff("f a 1\n l b a", "r b", &["- b"]);
    check_diff("f a 1\n l b a", "r a", &["- a"]);
    check_diff("f a 1\n f b 1", "l b a", &["~ a", "b = a"]);
    check_diff("f a 1", "l b a", &["~ a", "b = a"]);
    check_diff("f a 1\n l b a", "r b\n f b 1", &["~ b"]);
    check_diff("f a 1\n l b a\n l c a", "r c\n f c 1", &["~ c"]);
    check_diff("f a 1\n l b a", "m a 600", &["~ a", "b = a"]);
    check_diff("d d\n d e\n f d/a 1\n l e/b d/a", "r d", &["- d"]);
    check_diff("d d\n d e\n f d/a 1\n l d/b d/a\n d f", "l f/c d/a", &["~ d/a", "d/b = d/a", "f/c = d/a"]);
}

#[test]
fn equal_subtrees_are_not_loaded() {
    let store = MemoryStore::new();
    let mut lines = String::new();
    for directory in 0..100 {
        lines += &format!("d {directory}\n f {directory}/x 1\n");
    }
    let lower = tree(&store, &lines);
    let before = store.directories_loaded();
    let upper = changed(&store, &lower, "f 7/x 2");
    assert_eq!(store.directories_loaded() - before, 2);
    let before = store.directories_loaded();
    Tree::diff(&store, &lower, &upper).expect("stored");
    assert_eq!(store.directories_loaded() - before, 4);
}

#[test]
fn links_are_followed_inside_the_tree() {
    let store = MemoryStore::new();
    let tree = tree(&store, "d a\n f a/x 1\n s l /a\n s up ../../../a/x\n s loop loop\n s a/here ../l/x");
    let follow = |path: &str| {
        let found = tree.lookup_following(&store, path.as_bytes()).expect("stored");
        found.map(|(path, _)| String::from_utf8_lossy(&path).into_owned())
    };
    assert_eq!(follow("l/x").as_deref(), Some("a/x"));
    assert_eq!(follow("up").as_deref(), Some("a/x"));
    assert_eq!(follow("l/here").as_deref(), Some("a/x"));
    assert_eq!(follow("loop"), None);
    assert_eq!(follow("a/x/y"), None);
}

#[test]
fn damaged_objects_are_refused() {
    let store = MemoryStore::new();
    let tree = tree(&store, "f a 1\n l b a\n s c x");
    let directory = tree.directory(&store).expect("stored");
    let bytes = codec::encode(&directory);
    let again = codec::decode(&bytes);
    assert_eq!(again.as_ref(), Ok(&*directory));
    for length in 0..bytes.len() {
        assert!(codec::decode(&bytes[..length]).is_err());
    }
    let check = |change: fn(&mut Directory), error: DecodeError| {
        let mut directory = (*directory).clone();
        change(&mut directory);
        assert_eq!(codec::decode(&codec::encode(&directory)), Err(error));
    };
    check(|directory| directory.entries.swap(0, 1), DecodeError::Order("entries"));
    check(|directory| directory.entries[0].name = b"..".to_vec(), DecodeError::Value("name"));
    check(|directory| directory.entries[0].name = vec![b'x'; 256], DecodeError::Bound("name"));
    check(
        |directory| directory.hard_links[0][1] = b"nowhere".to_vec(),
        DecodeError::Value("a hard link leads nowhere"),
    );
    check(|directory| directory.entries[0].metadata.mode = 0o10000, DecodeError::Value("mode"));
    assert_eq!(Tree::decode(&tree.encode()).as_ref(), Ok(&tree));
}

#[test]
fn what_no_tree_can_record_is_refused() {
    let store = MemoryStore::new();
    let mut builder = TreeBuilder::new(&store);
    let link = |target: usize| Entry {
        name: Vec::new(),
        metadata: metadata(0o777),
        kind: NodeKind::Symlink { target: vec![b'x'; target] },
    };
    assert!(builder.put(b"a", link(4095)).is_ok());
    let kinds = [
        builder.put(b"a", link(4096)),
        builder.put(b"a/b", link(1)),
        builder.put(b"nowhere/b", link(1)),
        builder.put(b"../b", link(1)),
        builder.put(b"", link(1)),
        builder.put_directory(b"d", metadata(0o10000)),
        builder.hard_link(b"b", b"nowhere"),
        builder.hard_link(b"b", b""),
    ]
    .map(|result| result.expect_err("refused").kind());
    use io::ErrorKind::{InvalidData, InvalidInput, IsADirectory, NotADirectory, NotFound};
    let expected = [
        InvalidData,
        NotADirectory,
        NotFound,
        InvalidInput,
        NotADirectory,
        InvalidData,
        NotFound,
        IsADirectory,
    ];
    assert_eq!(kinds, expected);
}

proptest! {
    #[test]
    fn decoding_takes_any_bytes(mut bytes in prop::collection::vec(any::<u8>(), 0..200), start in any::<bool>()) {
        if start {
            bytes.splice(..0, *b"CDIR\x01");
        }
        if let Ok(directory) = codec::decode(&bytes) {
            prop_assert_eq!(codec::encode(&directory), bytes);
        }
    }
}

/// A random line for [`apply`] over few names, so that they collide.
fn step() -> impl Strategy<Value = String> {
    let name = || prop::sample::select(vec!["a", "b", "c"]);
    let path = move || {
        prop_oneof![
            name().prop_map(str::to_owned),
            (name(), name()).prop_map(|(a, b)| format!("{a}/{b}")),
            (name(), name(), name()).prop_map(|(a, b, c)| format!("{a}/{b}/{c}")),
        ]
    };
    prop_oneof![
        3 => path().prop_map(|path| format!("d {path}")),
        3 => (path(), 0..2).prop_map(|(path, data)| format!("f {path} {data}")),
        4 => (path(), path()).prop_map(|(path, target)| format!("l {path} {target}")),
        1 => path().prop_map(|path| format!("s {path} x")),
        2 => path().prop_map(|path| format!("r {path}")),
        1 => path().prop_map(|path| format!("o {path}")),
        1 => (path(), 0o600..0o602).prop_map(|(path, mode)| format!("m {path} {mode:o}")),
    ]
}

fn try_steps(builder: &mut TreeBuilder<'_>, store: &MemoryStore, steps: &[String]) {
    for step in steps {
        let path = step.split(' ').nth(1).map_or("", |path| path);
        // Steps that do not apply leave the builder as it was.
        if matches!(step.as_bytes()[0], b'r' | b'm') && !matches!(builder.get(path.as_bytes()), Ok(Some(_))) {
            continue;
        }
        let _unfit = apply(builder, store, step);
    }
}

proptest! {
    #[test]
    fn replaying_a_diff_gives_the_upper_tree(
        first in prop::collection::vec(step(), 0..24),
        second in prop::collection::vec(step(), 0..12),
        replaced in any::<u8>(),
    ) {
        let store = MemoryStore::new();
        let mut builder = TreeBuilder::new(&store);
        try_steps(&mut builder, &store, &first);
        let lower = builder.finish().expect("finishes");
        let mut builder = TreeBuilder::from_tree(&store, &lower);
        try_steps(&mut builder, &store, &second);
        let upper = builder.finish().expect("finishes");
        let is_replaced = |path: &[u8]| replaced.wrapping_mul(path.len() as u8 | 1) & 1 == 1;
        let changes = diff::diff(&store, &lower, &upper, &is_replaced).expect("stored");
        prop_assert_eq!(show(&store, &replay(&store, &lower, &changes)), show(&store, &upper));
        prop_assert_eq!(replay(&store, &lower, &changes).id(), upper.id());
        prop_assert!(changes.windows(2).all(|pair| path::tree_order(pair[0].path(), pair[1].path()).is_le()));
        if lower.id() == upper.id() {
            prop_assert!(changes.is_empty());
        }
        for id in [lower.exact, upper.exact] {
            let directory = store.directory(&id).expect("stored");
            let again = codec::decode(&codec::encode(&directory));
            prop_assert_eq!(again.as_ref(), Ok(&*directory));
        }
    }
}
