// The matchmaker web service in the browser, as docs/matchmaker.md walks through it. These tests have servers of their own.
import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { openToken } from './connect_token.mjs';
import { ROOT, startCloud, startServer, within } from './harness.mjs';

const KEY = Buffer.from('606abe6ec91910ea9a6562f66f2b30e44371d62cd19927266b3c60f4b715aba1', 'hex');
const PROTOCOL_ID = 80085n;
const DIGEST = Array.from({ length: 32 }, (_, at) => (at + 1).toString(16).padStart(2, '0')).join(':');
const SERVICE = {
  matchmaker_bind: '127.0.0.1:0',
  matchmaker_protocol_id: Number(PROTOCOL_ID),
};
const ENV = { LIGHTYEAR_PRIVATE_KEY: [...KEY].join(', ') };
// The service gives a session up after 62 s.
const UNCLAIMED_MS = 62_000;

/** What the cloud knows, and since when a session is ready that nobody claims. */
let cloud;

export const gameServerTests = {
  async 'what docs/matchmaker.md has one paste into the console ends in a session, with a configured server'({ peer }) {
    const arena = { id: 'arena-1', public: '203.0.113.20:5000', game: 'arena', version: '1', capacity: 4 };
    const settings = { ...SERVICE, game_servers: [{ ...arena, cert_digest: DIGEST }] };
    const server = await startServer({ settings, env: ENV, listens: 2 });
    const frames = await pasteInto(await peer('blank'), server, { game: 'arena', version: '1' });
    assert.equal(frames[0], 'Acknowledged');
    assert.match(frames[1].SessionRequestAccepted, /^[\w-]+$/);
    assert.equal(frames[2].ProgressReport, 'Ready (0)');
    assertReady(frames, '203.0.113.20', 5000);
  },

  async 'the same with the cloud'({ peer }) {
    const url = await startCloud('--ready-after', '1');
    const settings = {
      ...SERVICE,
      matchmaker_provider: 'edgegap',
      matchmaker_app_name: 'bevygap-spaceships',
      matchmaker_app_version: '1',
      matchmaker_fake_ip: '81.128.157.100',
      matchmaker_state_file: 'sessions',
      edgegap_url: url,
      edgegap_cert_digest: DIGEST,
    };
    const env = { ...ENV, EDGEGAP_API_KEY: 'token test-key' };
    const server = await startServer({ settings, env, listens: 2 });
    const frames = await pasteInto(await peer('blank'), server, { game: 'bevygap-spaceships', version: '1' });
    assertReady(frames, '203.0.113.10', 30004);
    const [[name, session]] = Object.entries((await stateOf(url)).sessions);
    assert.deepEqual(frames.slice(0, 2), ['Acknowledged', { SessionRequestAccepted: name }]);
    assert.deepEqual([session.deleted, session.ips], [false, ['81.128.157.100']]);
    cloud = { url, name, readyMs: Date.now() };
  },

  'a session of the cloud that nobody claims is deleted after a minute': Object.assign(
    async () => {
      const { url, name, readyMs } = cloud;
      for (;;) {
        if ((await stateOf(url)).sessions[name].deleted) break;
        await new Promise((resolve) => setTimeout(resolve, 200));
      }
      const after = Date.now() - readyMs;
      assert.ok(after > UNCLAIMED_MS - 5_000, `deleted after ${after} ms`);
    },
    { timeoutMs: UNCLAIMED_MS + 30_000 },
  ),
};

/** Pastes the page's JavaScript into the console at `http://localhost:PORT`; resolves with the frames that it logs. */
async function pasteInto(page, server, { game, version }) {
  const port = server.addresses[1].split(':')[1];
  const document = readFileSync(path.join(ROOT, 'docs/matchmaker.md'), 'utf8');
  const example = /```js\n([\s\S]*?)```/.exec(document)?.[1];
  assert.ok(example?.includes('ws://localhost:3000/matchmaker/ws'), 'docs/matchmaker.md has no snippet');
  const pasted = example
    .replaceAll('localhost:3000', `localhost:${port}`)
    .replace(/(["']?game["']?: *)(["'])[^"']*\2/, `$1"${game}"`)
    .replace(/(["']?version["']?: *)(["'])[^"']*\2/, `$1"${version}"`);
  await page.goto(`http://localhost:${port}`);
  assert.ok((await page.content()).length > 0);
  const frames = [];
  const ready = new Promise((resolve, reject) =>
    page.on('console', (line) => {
      const json = /["{].*/s.exec(line.text())?.[0];
      try {
        frames.push(JSON.parse(json));
      } catch {
        return;
      }
      if (frames.at(-1).SessionReady) resolve();
      if (frames.at(-1).Error) reject(new Error(line.text()));
    }),
  );
  await page.evaluate(pasted);
  await within(20_000, ready, `SessionReady after ${JSON.stringify(frames)}`);
  return frames;
}

function assertReady(frames, ip, port) {
  assert.match(frames.at(-2).ProgressReport, /^Ready \(\d+\)$/);
  const ready = frames.at(-1).SessionReady;
  assert.deepEqual(Object.keys(ready), ['token', 'ip', 'port', 'cert_digest']);
  assert.deepEqual([ready.ip, ready.port, ready.cert_digest], [ip, port, DIGEST]);
  const token = openToken(ready.token, KEY, PROTOCOL_ID);
  assert.deepEqual([token.addresses, token.internal], [[`${ip}:${port}`], [`${ip}:${port}`]]);
  assert.equal(token.timeout, 15);
  assert.equal(token.expires - token.created, 25n);
}

const stateOf = async (url) => (await fetch(`${url}/__mock/state`)).json();
