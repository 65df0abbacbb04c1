module.exports = text => text.split(' ').reduce((counts, word) => ({ ...counts, [word]: (counts[word] || 0) + 1 }), {});
