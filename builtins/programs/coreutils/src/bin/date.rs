//! Dates.

toolbox_coreutils::tools! {
    "date" => uu_date,
}
