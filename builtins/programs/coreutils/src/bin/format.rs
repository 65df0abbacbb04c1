//! Numbers, words and pages.

toolbox_coreutils::tools! {
    "basename" => uu_basename,
    "dirname" => uu_dirname,
    "echo" => uu_echo,
    "expr" => uu_expr,
    "factor" => uu_factor,
    "fmt" => uu_fmt,
    "numfmt" => uu_numfmt,
    "od" => uu_od,
    "pathchk" => uu_pathchk,
    "pr" => uu_pr,
    "printenv" => uu_printenv,
    "printf" => uu_printf,
    "ptx" => uu_ptx,
    "seq" => uu_seq,
}
