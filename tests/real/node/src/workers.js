// Threads with their own heaps, started one after the other and side by side.
const { Worker, isMainThread, parentPort, workerData } = require('worker_threads');
if (!isMainThread) {
  let sum = 0;
  for (let i = 0; i < 100000; i++) sum += i % workerData;
  parentPort.postMessage(sum);
} else {
  const run = data => new Promise(done => {
    let answer;
    const worker = new Worker(__filename, { workerData: data });
    worker.on('message', message => { answer = message });
    worker.on('exit', () => done(answer));
  });
  (async () => {
    let sum = 0;
    for (let i = 0; i < 3; i++) sum += await run(2);
    for (const part of await Promise.all([2, 3, 4, 5].map(run))) sum += part;
    console.log('workers', sum);
    const word = new Int32Array(new SharedArrayBuffer(4));
    console.log(Atomics.wait(word, 0, 0, 20));
  })();
}
