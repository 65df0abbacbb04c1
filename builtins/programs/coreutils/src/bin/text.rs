//! Filters of lines and columns.

toolbox_coreutils::tools! {
    "cat" => uu_cat,
    "comm" => uu_comm,
    "csplit" => uu_csplit,
    "cut" => uu_cut,
    "expand" => uu_expand,
    "fold" => uu_fold,
    "head" => uu_head,
    "join" => uu_join,
    "nl" => uu_nl,
    "paste" => uu_paste,
    "split" => uu_split,
    "tac" => uu_tac,
    "tail" => uu_tail,
    "tee" => uu_tee,
    "tr" => uu_tr,
    "tsort" => uu_tsort,
    "unexpand" => uu_unexpand,
    "uniq" => uu_uniq,
    "wc" => uu_wc,
}
