//! Sorting and shuffling.

toolbox_coreutils::tools! {
    "sort" => uu_sort,
    "shuf" => uu_shuf,
}
