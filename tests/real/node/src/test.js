require('assert').deepStrictEqual(require('words')('a b a'), { a: 2, b: 1 });
