// What a program needs of V8 and of the event loop.
const fs = require('fs'), zlib = require('zlib'), crypto = require('crypto');
let sum = 0;
for (let i = 0; i < 300000; i++) sum = (sum * 31 + i) | 0;
console.log('loop', sum, 2n ** 70n, /(\d+)-(\w)/.exec('12-a')[2]);
try { null.x } catch (error) { console.log(error.message) }
try { (function deep() { deep() })() } catch (error) { console.log(error.constructor.name) }
const kept = [];
for (let round = 0; round < 20; round++) {
  kept.length = 0;
  for (let i = 0; i < 20000; i++) kept.push({ i, text: 'key' + i });
}
global.gc();
console.log('kept', kept.length, kept[19999].text);
console.log('zlib', zlib.gunzipSync(zlib.gzipSync('hello'.repeat(1000))).length);
console.log('sha256', crypto.createHash('sha256').update('x').digest('hex').slice(0, 8));
let fired = 0;
for (let i = 0; i < 10000; i++) setTimeout(() => { if (++fired == 10000) after() }, i % 50);
function after() {
  console.log('timers', fired);
  fs.writeFileSync('/tmp/file', 'data');
  fs.promises.readFile('/tmp/file', 'utf8').then(text => {
    console.log('file', text);
    fs.unlinkSync('/tmp/file');
  });
}
Promise.resolve().then(() => console.log('microtask'));
process.nextTick(() => console.log('tick'));
process.on('exit', code => console.log('exit', code));
