//! Names, words and numbers as text.

toolbox_coreutils::tools! {
    "basename" => uu_basename,
    "dirname" => uu_dirname,
    "echo" => uu_echo,
    "od" => uu_od,
    "pathchk" => uu_pathchk,
    "printenv" => uu_printenv,
    "printf" => uu_printf,
    "seq" => uu_seq,
}
