//! Filters that compare by the order of a locale, which brings its tables along.

toolbox_coreutils::tools! {
    "comm" => uu_comm,
    "join" => uu_join,
}
