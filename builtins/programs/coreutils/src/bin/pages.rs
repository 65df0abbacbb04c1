//! Paragraphs, pages and indexes.

toolbox_coreutils::tools! {
    "fmt" => uu_fmt,
    "pr" => uu_pr,
    "ptx" => uu_ptx,
}
