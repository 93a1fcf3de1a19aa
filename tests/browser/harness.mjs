// Starts and ends what a browser test needs: the server on a free port, a site with the pages, headless Chromium.
//
// Owns: every process, socket and folder that it makes; `cleanUp` ends them all, however the run goes.
// Never: talks to anything but 127.0.0.1.
import { spawn } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import http from 'node:http';
import os from 'node:os';
import path from 'node:path';
import readline from 'node:readline';
import { fileURLToPath } from 'node:url';
import { chromium } from 'playwright-core';

export const HERE = path.dirname(fileURLToPath(import.meta.url));
export const ROOT = path.resolve(HERE, '../..');
export const TEST_TIMEOUT_MS = 45_000;
export const EXIT_TIMEOUT_MS = 10_000;
const START_TIMEOUT_MS = 15_000;
export const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';
const BROWSER_FLAGS = [
  '--headless',
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
  '--disable-dev-shm-usage',
  // Real addresses as candidates, loopback among them: the machine may have no other interface and no mDNS.
  '--disable-features=WebRtcHideLocalIpsWithMdns',
  '--allow-loopback-in-peer-connection',
];
// No TURN server is there: pages construct connections with it and gather nothing.
export const ICE = {
  ice_servers: [
    'auto',
    'stun:[2001:db8::1]',
    'stuns:stun.example:5349',
    'turn:127.0.0.1:9?transport=udp',
    'turns:turn.example:443?transport=tcp',
  ],
  turn_secret: 'north',
};
const PAGES = {
  '/signalling.html': 'text/html',
  '/matchmaking.html': 'text/html',
  '/rooms.html': 'text/html',
  '/client.js': 'text/javascript',
};
const cleanups = [];

/** Fails with the name of what was awaited when it takes longer. */
export function within(ms, promise, what) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} took longer than ${ms} ms`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/**
 * Starts a server with these settings and variables beside the usual ones. Resolves with `{ url, addresses, child, exited,
 * diagnostics }` once it has said where it listens: on `listens` addresses.
 */
export async function startServer({ settings = ICE, env = {}, listens = 1 } = {}) {
  const folder = mkdtempSync(path.join(os.tmpdir(), 'peer-server-browser-'));
  cleanups.push(() => rmSync(folder, { recursive: true, force: true }));
  const config = path.join(folder, 'config.json');
  // Two loops, so that pages meet across loops on a machine with one core too.
  const usual = { host: '127.0.0.1', port: 0, metrics_enabled: false, loops: 2, drain_timeout: '2s' };
  writeFileSync(config, JSON.stringify({ ...usual, ...settings }));
  const child = spawn(serverBinary(), ['-config', config], {
    stdio: ['ignore', 'pipe', 'pipe'],
    // Nothing of the caller's settings: PEER_PORT would win over the file.
    env: { PATH: process.env.PATH, ...env },
    cwd: folder,
  });
  const diagnostics = [];
  child.stderr.setEncoding('utf8').on('data', (text) => diagnostics.push(text));
  const exited = new Promise((resolve) => child.on('exit', (code, signal) => resolve([code, signal])));
  cleanups.push(async () => {
    if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
    child.kill('SIGKILL');
    await exited;
  });
  const listening = new Promise((resolve, reject) => {
    child.on('error', reject);
    exited.then(([code, signal]) =>
      reject(new Error(`the server ended with ${code ?? signal}\n${diagnostics.join('')}`)),
    );
    const addresses = [];
    readline.createInterface({ input: child.stdout }).on('line', (line) => {
      const address = /^listening on (127\.0\.0\.1:\d+)$/.exec(line.trim())?.[1];
      if (address) addresses.push(address);
      if (addresses.length === listens) resolve(addresses);
    });
  });
  const addresses = await within(START_TIMEOUT_MS, listening, 'the start of the server');
  return { url: `ws://${addresses[0]}/ws`, addresses, child, exited, diagnostics };
}

/** Starts the mock of the cloud's interface; resolves with its address. */
export async function startCloud(...options) {
  const mock = path.join(ROOT, 'tests/edgegap/mock_edgegap.py');
  const child = spawn('python3', [mock, ...options], { stdio: ['ignore', 'pipe', 'inherit'] });
  const exited = new Promise((resolve) => child.on('exit', resolve).on('error', resolve));
  cleanups.push(async () => {
    if (child.pid === undefined || child.exitCode !== null || child.signalCode !== null) return;
    child.kill('SIGKILL');
    await exited;
  });
  const listening = new Promise((resolve, reject) => {
    exited.then(() => reject(new Error('the mock of the cloud ended')));
    readline.createInterface({ input: child.stdout }).on('line', (line) => {
      const address = /^LISTENING (\S+)$/.exec(line.trim())?.[1];
      if (address) resolve(address);
    });
  });
  return within(START_TIMEOUT_MS, listening, 'the start of the mock of the cloud');
}

/** Serves `pages/` and resolves with the address. */
export async function servePages() {
  const site = http.createServer((request, response) => {
    const type = PAGES[request.url];
    response.writeHead(type ? 200 : 404, { 'Content-Type': type ?? 'text/plain', Connection: 'close' });
    response.end(type ? readFileSync(path.join(HERE, 'pages', request.url)) : 'not found\n');
  });
  await new Promise((resolve, reject) => site.on('error', reject).listen(0, '127.0.0.1', resolve));
  cleanups.push(() => {
    site.close();
    site.closeAllConnections();
  });
  return `http://127.0.0.1:${site.address().port}`;
}

/** Starts a browser whose pages can reach that address only, also as `localhost`: no other name resolves. */
export async function startBrowser({ executablePath = CHROMIUM, reachable = '127.0.0.1' } = {}) {
  const rules = `MAP localhost 127.0.0.1, MAP * ~NOTFOUND, EXCLUDE ${reachable}`;
  const args = [...BROWSER_FLAGS, `--host-resolver-rules=${rules}`];
  const launch = { executablePath, args, timeout: START_TIMEOUT_MS * 2 };
  // Signals are ours to handle: the server has to end as well.
  const browser = await chromium.launch({ ...launch, handleSIGINT: false, handleSIGTERM: false, handleSIGHUP: false });
  cleanups.push(() => browser.close());
  return browser;
}

/** Ends everything that was started, last first. */
export async function cleanUp() {
  for (const cleanup of cleanups.splice(0).reverse()) {
    try {
      await cleanup();
    } catch (error) {
      console.error(`cleaning up: ${error.message}`);
    }
  }
}

function serverBinary() {
  const named = process.env.PEER_SERVER_BIN;
  const built = ['release', 'debug'].map((profile) => path.join(ROOT, 'target', profile, 'peer-server'));
  const found = (named ? [named] : built).find((candidate) => existsSync(candidate));
  if (!found) throw new Error('no server to test: build it (cargo build) or name it in PEER_SERVER_BIN');
  return path.resolve(found);
}
