//! Filters that number, split and reverse lines.

toolbox_coreutils::tools! {
    "csplit" => uu_csplit,
    "nl" => uu_nl,
    "split" => uu_split,
    "tac" => uu_tac,
    "tsort" => uu_tsort,
}
