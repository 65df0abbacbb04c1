//! Filters that number, join and split lines.

toolbox_coreutils::tools! {
    "csplit" => uu_csplit,
    "join" => uu_join,
    "nl" => uu_nl,
    "split" => uu_split,
    "tsort" => uu_tsort,
}
