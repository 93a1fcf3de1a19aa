// Interop tests: clients of other people against the built server, prints `N passed, N failed`.
//
// Every pair of clients holds the same conversation over each kind of connection; then each client alone sees the ends
// that the server makes. Last, public STUN clients, those that are installed. `run.sh` installs what this needs and
// sets PEER_SERVER_BIN and INTEROP_PYTHON.
import { conversation } from './conversation.mjs';
import { endings } from './endings.mjs';
import { NodePeer, PythonPeer } from './peers.mjs';
import { cleanUp, defer, makeCertificate, startServer, within } from './server.mjs';
import { isInstalled, stunClients } from './stun.mjs';

const TEST_TIMEOUT_MS = 20_000;
const WHOLE_RUN_MS = 120_000;
const KINDS = { node: NodePeer, python: PythonPeer };
const PAIRS = [
  ['node', 'node'],
  ['python', 'python'],
  ['node', 'python'],
  ['python', 'node'],
];

let [passed, failed] = [0, 0];
let stopping = false;
const watchdog = setTimeout(() => stop('the whole run took too long'), WHOLE_RUN_MS);
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => stop(`ended by ${signal}`));
// A promise that a failed test left behind: the failure has its line already, and the rest must still be cleaned up.
process.on('unhandledRejection', () => {});

try {
  const certificate = makeCertificate();
  for (const tls of [false, true]) {
    for (const compression of [false, true]) await runAll(tls ? certificate : null, compression);
  }
  await runStunClients();
} catch (error) {
  if (!stopping) {
    failed += 1;
    console.error(error.stack);
  }
}
if (!stopping) {
  await cleanUp();
  clearTimeout(watchdog);
  console.log(`${passed} passed, ${failed} failed`);
  process.exitCode = failed === 0 ? 0 : 1;
}

/** All that is tried on one kind of connection. */
async function runAll(certificate, compression) {
  const server = await startServer(certificate, compression);
  const failedBefore = failed;
  const kind = `${certificate ? 'TLS' : 'plain'}, compression ${compression ? 'on' : 'off'}`;
  for (const [first, second] of PAIRS) {
    await run(`${kind}: ${first} and ${second} converse`, server, [first, second], conversation);
  }
  for (const [name, ending] of Object.entries(endings)) {
    for (const client of Object.keys(KINDS)) await run(`${kind}: ${client}: ${name}`, server, [client], ending);
  }
  await run(`${kind}: a server that stops tells everybody`, server, Object.keys(KINDS), async ({ peers, open }) => {
    await open(...peers);
    server.child.kill('SIGTERM');
    for (const peer of peers) await peer.expectClose(1001);
    const [code, signal] = await server.exited;
    if (code !== 0) throw new Error(`the server ended with ${code ?? signal}`);
  });
  const diagnostics = server.diagnostics.join('').slice(-20_000);
  if (failed > failedBefore) console.log(`what the server wrote to stderr:\n${diagnostics}`);
}

/** The STUN clients, one after another: each looks at the server's counters. */
async function runStunClients() {
  const server = await startServer(null, false);
  const { port } = new URL(server.url);
  const health = async () => (await fetch(`http://127.0.0.1:${port}/health`)).json();
  for (const [name, [program, distributedIn, test]] of Object.entries(stunClients)) {
    if (isInstalled(program)) await run(`STUN: ${name}`, server, [], () => test({ port, health }));
    else console.log(`skipped STUN: ${name}: ${program} is not installed (Debian: ${distributedIn})`);
  }
}

/** One test, with fresh peers that are ended after it. `open` connects peers, with compression where the server has it. */
async function run(name, server, clients, test) {
  if (stopping) return;
  const peers = clients.map((client, index) => new KINDS[client](`${client} ${index + 1}`));
  const endPeers = defer(() => Promise.all(peers.map((peer) => peer.end())));
  const open = (...them) => Promise.all(them.map((peer) => peer.open(server, server.compression ? 'deflate' : 'none')));
  try {
    await within(TEST_TIMEOUT_MS, test({ server, peers, open }), 'the test');
    passed += 1;
    console.log(`ok     ${name}`);
  } catch (error) {
    if (stopping) return;
    failed += 1;
    console.log(`FAILED ${name}\n${error.stack}`);
  } finally {
    await endPeers();
  }
}

async function stop(reason) {
  if (stopping) return;
  stopping = true;
  console.error(reason);
  await within(5_000, cleanUp(), 'cleaning up').catch((error) => console.error(error.message));
  console.log(`${passed} passed, ${failed + 1} failed`);
  process.exit(1);
}
