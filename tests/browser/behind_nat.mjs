// Two browsers behind two NATs call each other through the server: its WebSocket for signals, its STUN for addresses.
//
// Arguments: the network namespaces of the two browsers, the server's address, its port. Prints a line of JSON: what
// each gathered, and the way that the call takes. tests/nat builds the network and judges; it needs root.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { gatherCandidates } from './gathering.mjs';
import { CHROMIUM, HERE, TEST_TIMEOUT_MS, cleanUp, startBrowser, within } from './harness.mjs';

// Answered from files, whatever the network: nothing is asked for it.
const SITE = 'http://pages.test';
const [namespaceA, namespaceB, host, port] = process.argv.slice(2);
const folder = mkdtempSync(path.join(os.tmpdir(), 'peer-server-behind-nat-'));
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => end(1));

within(TEST_TIMEOUT_MS * 2, run(), 'the call').then(
  async (result) => {
    console.log(JSON.stringify(result));
    await end(0);
  },
  async (error) => {
    console.error(error.stack);
    await end(1);
  },
);

async function run() {
  const [a, b] = await Promise.all([openPage(namespaceA), openPage(namespaceB)]);
  const alice = await a.evaluate(enter, [`ws://${host}:${port}/ws`, 'alice']);
  const bob = await b.evaluate(enter, [`ws://${host}:${port}/ws`, 'bob']);
  const gathered = await Promise.all([a, b].map((page) => page.evaluate(gatherCandidates, `stun:${host}:${port}`)));
  await Promise.all([
    b.evaluate((to) => app.call(to), alice.fingerprint),
    a.evaluate((from) => app.answered(from), bob.fingerprint),
  ]);
  await b.evaluate((to) => app.say(to, 'hello alice'), alice.fingerprint);
  await a.evaluate((from) => app.hear(from, 'hello alice'), bob.fingerprint);
  await a.evaluate((to) => app.say(to, 'hello bob'), bob.fingerprint);
  await b.evaluate((from) => app.hear(from, 'hello bob'), alice.fingerprint);
  const ways = [
    await a.evaluate((peer) => app.way(peer), bob.fingerprint),
    await b.evaluate((peer) => app.way(peer), alice.fingerprint),
  ];
  return { gathered, ways };
}

/** Runs in the page, which asks the server for its ICE servers. */
async function enter([url, key]) {
  const me = await app.enter(url, key, 'call');
  app.iceServers = (await app.client.iceServers()).ice_servers;
  return me;
}

async function openPage(namespace) {
  const executablePath = path.join(folder, namespace);
  const command = `exec ip netns exec '${namespace}' '${CHROMIUM}' "$@"`;
  writeFileSync(executablePath, `#!/bin/sh\n${command}\n`, { mode: 0o755 });
  const browser = await startBrowser({ executablePath, reachable: host });
  const page = await (await browser.newContext()).newPage();
  page.setDefaultTimeout(TEST_TIMEOUT_MS);
  await page.route(`${SITE}/**`, (route) =>
    route.fulfill({ path: path.join(HERE, 'pages', path.basename(route.request().url())) }),
  );
  await page.goto(`${SITE}/signalling.html`);
  await page.waitForFunction(() => window.app);
  return page;
}

async function end(code) {
  await cleanUp();
  rmSync(folder, { recursive: true, force: true });
  process.exit(code);
}
