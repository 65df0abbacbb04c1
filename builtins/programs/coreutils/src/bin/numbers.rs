//! Numbers taken apart and written for people.

toolbox_coreutils::tools! {
    "factor" => uu_factor,
    "numfmt" => uu_numfmt,
}
