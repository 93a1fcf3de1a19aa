// The server under test, its certificate, and the end of everything that was started.
//
// Owns: the server's process and configuration, the temporary folder, the clean-ups. Never: speaks to the server.
import { execFileSync, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import readline from 'node:readline';

const START_TIMEOUT_MS = 15_000;
const folder = mkdtempSync(path.join(os.tmpdir(), 'peer-server-interop-'));
const cleanups = new Set();
let ended = false;
defer(() => rmSync(folder, { recursive: true, force: true }));

/** Fails with the name of what was awaited when it takes longer. */
export function within(ms, promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} took longer than ${ms} ms`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** Does it at the end of the run, or earlier when what is returned is called; once in all. */
export function defer(cleanup) {
  const once = async () => {
    if (cleanups.delete(once)) await cleanup();
  };
  cleanups.add(once);
  return once;
}

/** Ends everything that was started, last first. */
export async function cleanUp() {
  ended = true;
  for (const cleanup of [...cleanups].reverse()) {
    try {
      await cleanup();
    } catch (error) {
      console.error(`cleaning up: ${error.message}`);
    }
  }
}

/** A certificate for localhost that vouches for itself: `{ certificate, key, pem }`. */
export function makeCertificate() {
  const [certificate, key] = ['certificate.pem', 'key.pem'].map((name) => path.join(folder, name));
  const kind = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-noenc', '-days', '2'];
  const subject = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost'];
  execFileSync('openssl', ['req', '-x509', ...kind, ...subject, '-keyout', key, '-out', certificate], {
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  return { certificate, key, pem: readFileSync(certificate, 'utf8') };
}

/** Resolves once the server has said where it listens. */
export async function startServer(certificate, compression) {
  // Nobody would end it any more.
  if (ended) throw new Error('the run is over');
  const config = path.join(folder, `config-${certificate ? 'tls' : 'plain'}-${compression}.json`);
  const tls = certificate ? { tls_cert: certificate.certificate, tls_key: certificate.key } : {};
  // Two loops, so that peers meet across loops on a machine with one core too.
  const settings = { host: '127.0.0.1', port: 0, metrics_enabled: false, loops: 2, drain_timeout: '5s' };
  writeFileSync(config, JSON.stringify({ ...settings, ...tls, compression_enabled: compression }));
  const child = spawn(path.resolve(process.env.PEER_SERVER_BIN), ['-config', config], {
    stdio: ['ignore', 'pipe', 'pipe'],
    // Nothing of the caller's settings: PEER_PORT would win over the file.
    env: { PATH: process.env.PATH },
  });
  const diagnostics = [];
  child.stderr.setEncoding('utf8').on('data', (text) => diagnostics.push(text));
  const exited = new Promise((resolve) => child.on('exit', (code, signal) => resolve([code, signal])));
  defer(async () => {
    if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
    child.kill('SIGKILL');
    await exited;
  });
  const listening = new Promise((resolve, reject) => {
    child.on('error', reject);
    exited.then(([code, signal]) =>
      reject(new Error(`the server ended with ${code ?? signal}\n${diagnostics.join('')}`)),
    );
    readline.createInterface({ input: child.stdout }).on('line', (line) => {
      const port = /^listening on 127\.0\.0\.1:(\d+)$/.exec(line.trim())?.[1];
      if (port) resolve(port);
    });
  });
  // A failure to come up has its message already; later the same promise only says that the server ended.
  const port = await within(START_TIMEOUT_MS, listening, 'the start of the server');
  const url = certificate ? `wss://localhost:${port}/ws` : `ws://127.0.0.1:${port}/ws`;
  return { url, certificate, compression, child, exited, diagnostics };
}
