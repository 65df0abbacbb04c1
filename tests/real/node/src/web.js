// A web server and its clients on loopback.
const http = require('http');
const host = '127.0.0.1';
const server = http.createServer((request, answer) => answer.end('hello ' + request.url)).listen(0, host, async () => {
  const { port } = server.address();
  const get = path => new Promise((done, fail) => http.get({ host, port, path, agent: false }, answer => {
    let body = '';
    answer.on('data', part => { body += part });
    answer.on('end', () => done(body === 'hello ' + path));
  }).on('error', fail));
  const answers = await Promise.all([...Array(20).keys()].map(i => get('/' + i)));
  console.log('answers', answers.filter(right => right).length);
  server.close();
});
