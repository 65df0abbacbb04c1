//! Arithmetic.

toolbox_coreutils::tools! {
    "expr" => uu_expr,
    "factor" => uu_factor,
    "numfmt" => uu_numfmt,
}
