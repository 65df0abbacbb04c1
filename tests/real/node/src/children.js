// A child with a pipe, and a fork with a channel.
const { execSync, fork } = require('child_process');
if (process.send) {
  process.send('up');
  process.on('message', message => { console.log('child', message); process.exit(3) });
} else {
  console.log(execSync('echo shell; uname').toString().trim());
  const child = fork(__filename);
  child.on('message', message => { console.log('parent', message); child.send('down') });
  child.on('exit', code => console.log('exit', code));
}
