//! Filters of bytes and lines.

toolbox_coreutils::tools! {
    "cat" => uu_cat,
    "cut" => uu_cut,
    "expand" => uu_expand,
    "fold" => uu_fold,
    "head" => uu_head,
    "paste" => uu_paste,
    "tail" => uu_tail,
    "tee" => uu_tee,
    "tr" => uu_tr,
    "unexpand" => uu_unexpand,
    "uniq" => uu_uniq,
    "wc" => uu_wc,
}
