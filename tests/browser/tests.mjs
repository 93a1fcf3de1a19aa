// What is tested in the browser: each test gets `peer(PAGE)`, which opens a page in a browser context of its own, as a
// visitor of its own would, and `server`, the running server. They run in this order; the last one stops the server.
import assert from 'node:assert/strict';
import { createHash, createHmac, randomUUID } from 'node:crypto';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { gatherCandidates } from './gathering.mjs';
import { EXIT_TIMEOUT_MS, ICE, ROOT, within } from './harness.mjs';

export const tests = {
  async 'two pages open a data channel and talk both ways'({ peer, server }) {
    const [a, b] = [await peer('signalling'), await peer('signalling')];
    const namespace = unique('call');
    const key = unique('key');
    const alice = await a.evaluate((args) => app.enter(...args), [server.url, key, namespace]);
    assert.equal(alice.fingerprint, createHash('sha256').update(key).digest('hex'));
    assert.match(alice.alias, /^[a-z]+-[a-z]+-[0-9]{2}$/);
    assert.deepEqual(alice.others, []);

    const bob = await b.evaluate((args) => app.enter(...args), [server.url, unique('key'), namespace]);
    assert.deepEqual(bob.others, [{ fingerprint: alice.fingerprint, alias: alice.alias, app_type: 'call' }]);

    await Promise.all([
      b.evaluate((to) => app.call(to), alice.fingerprint),
      a.evaluate((from) => app.answered(from), bob.fingerprint),
    ]);
    await b.evaluate((to) => app.say(to, 'hello alice'), alice.fingerprint);
    await a.evaluate((from) => app.hear(from, 'hello alice'), bob.fingerprint);
    await a.evaluate((to) => app.say(to, 'hello bob'), bob.fingerprint);
    await b.evaluate((from) => app.hear(from, 'hello bob'), alice.fingerprint);

    const signals = await a.evaluate(() => app.client.received.filter(({ type }) => type === 'signal'));
    assert.equal(signals[0].payload.signal_type, 'offer');
    assert.ok(
      signals.some(({ payload }) => payload.signal_type === 'candidate'),
      'no candidate came',
    );
    for (const signal of signals) {
      assert.equal(signal.from, bob.fingerprint);
      assert.equal(signal.to, alice.fingerprint);
      assert.ok(Math.abs(signal.ts - Date.now()) < 60_000, `ts ${signal.ts}`);
    }
    await b.close();
    await a.waitForFunction((gone) => !app.hasCall(gone), bob.fingerprint);
    assert.deepEqual(await errorsOf(a), []);
  },

  async 'a signal to a stranger is refused to its sender'({ peer, server }) {
    const [a, b] = [await peer('signalling'), await peer('signalling')];
    const alice = await a.evaluate((args) => app.enter(...args), [server.url, unique('key'), unique('one')]);
    await b.evaluate((args) => app.enter(...args), [server.url, unique('key'), unique('two')]);
    await b.evaluate((to) => app.client.signal(to, { signal_type: 'offer', sdp: '' }), alice.fingerprint);
    const refused = await b.evaluate(() => app.client.seen(({ type }) => type === 'error', 'the refusal'));
    assert.deepEqual(refused.payload, { code: 403, message: 'no shared namespace' });
    await a.evaluate(() => app.client.ping());
    assert.deepEqual(await a.evaluate(() => app.client.received.filter(({ type }) => type === 'signal')), []);
  },

  async 'a browser takes the ICE servers that the server tells'({ peer, server }) {
    const page = await peer('rooms');
    const me = await page.evaluate((args) => app.register(...args), [server.url, unique('key')]);
    const [payload, taken] = await page.evaluate(async () => {
      const payload = await app.client.iceServers();
      const connection = new RTCPeerConnection({ iceServers: payload.ice_servers });
      const taken = connection.getConfiguration().iceServers;
      connection.close();
      return [payload, taken];
    });
    const { port } = new URL(server.url);
    const [auto, ...urls] = ICE.ice_servers;
    assert.equal(auto, 'auto');
    const [expiry] = payload.ice_servers[1].username.split(':');
    const username = `${expiry}:${me.fingerprint}`;
    const credential = createHmac('sha1', ICE.turn_secret).update(username).digest('base64');
    assert.deepEqual(payload, {
      ice_servers: [
        { urls: [`stun:127.0.0.1:${port}`, ...urls.slice(0, 2)] },
        { urls: urls.slice(2), username, credential },
      ],
      ttl: 86_400,
    });
    assert.ok(Math.abs(expiry - payload.ttl - Date.now() / 1000) < 60, `expiry ${expiry}`);
    assert.deepEqual(
      taken.map(({ urls, username = '', credential = '' }) => ({ urls, username, credential })),
      payload.ice_servers.map(({ urls, username = '', credential = '' }) => ({ urls, username, credential })),
    );
  },

  async 'two players with equal criteria are matched and greet each other'({ peer, server }) {
    const [a, b] = [await peer('matchmaking'), await peer('matchmaking')];
    const namespace = unique('arena');
    const alice = await a.evaluate((args) => app.register(...args), [server.url, unique('key'), { skill: 3 }]);
    const bob = await b.evaluate((args) => app.register(...args), [server.url, unique('key'), {}]);

    const first = a.evaluate((ns) => app.findMatch(ns, { mode: 'ranked', map: 7 }, 2), namespace);
    const waiting = await a.evaluate(() => app.waiting());
    assert.deepEqual(waiting.payload, { status: 'waiting' });
    const [forAlice, forBob] = await Promise.all([
      first,
      // The same criteria in another order of members.
      b.evaluate((ns) => app.findMatch(ns, { map: 7, mode: 'ranked' }, 2), namespace),
    ]);
    assert.deepEqual(forAlice, forBob);
    assert.match(forAlice.session_id, /^[0-9a-f]{32}$/);
    assert.equal(forAlice.namespace, namespace);
    assert.deepEqual(forAlice.peers, [
      { fingerprint: alice.fingerprint, alias: alice.alias, meta: { skill: 3 } },
      { fingerprint: bob.fingerprint, alias: bob.alias },
    ]);

    await Promise.all([
      a.evaluate((args) => app.enterWith(...args), [namespace, bob.fingerprint]),
      b.evaluate((args) => app.enterWith(...args), [namespace, alice.fingerprint]),
    ]);
    await a.evaluate((to) => app.greet(to, 'good luck'), bob.fingerprint);
    const greeting = await b.evaluate(() => app.greeting());
    assert.equal(greeting.from, alice.fingerprint);
    assert.deepEqual(greeting.payload, { text: 'good luck' });
    assert.deepEqual([...(await errorsOf(a)), ...(await errorsOf(b))], []);
  },

  async 'a room: create, join, broadcast, kick, leave'({ peer, server }) {
    const [o, g, h] = [await peer('rooms'), await peer('rooms'), await peer('rooms')];
    const room = unique('room');
    const register = (page, name) =>
      page.evaluate((args) => app.register(...args), [server.url, unique('key'), unique(name)]);
    const [owner, guest, other] = [await register(o, 'owner'), await register(g, 'guest'), await register(h, 'other')];

    const created = await o.evaluate((id) => app.client.createRoom(id, 3), room);
    assert.deepEqual(created, { room_id: room, max_size: 3, owner: owner.fingerprint });
    assert.deepEqual(await g.evaluate((id) => app.refusal(() => app.client.createRoom(id)), room), {
      code: 409,
      message: 'room already exists',
    });
    const member = ({ fingerprint, alias }) => ({ fingerprint, alias, app_type: 'room' });
    const byName = (x, y) => x.fingerprint.localeCompare(y.fingerprint);
    assert.deepEqual(await g.evaluate((id) => app.client.joinRoom(id), room), [member(owner)]);
    const metByOther = await h.evaluate((id) => app.client.joinRoom(id), room);
    assert.deepEqual(metByOther.sort(byName), [member(owner), member(guest)].sort(byName));
    for (const [joiner, who] of [
      [guest, 'guest'],
      [other, 'other'],
    ]) {
      const seen = await o.evaluate(
        (from) => app.client.seen((m) => m.type === 'peer_joined' && m.from === from, 'peer_joined'),
        joiner.fingerprint,
      );
      assert.deepEqual([seen.namespace, seen.payload], [room, member(joiner)], who);
    }

    await o.evaluate((id) => app.client.broadcast(id, { text: 'welcome' }), room);
    for (const page of [g, h]) {
      const heard = await page.evaluate((from) => app.broadcastFrom(from), owner.fingerprint);
      assert.equal(heard.namespace, room);
      assert.deepEqual(heard.payload.data, { text: 'welcome' });
    }
    assert.deepEqual(await typesOf(o, 'broadcast'), [], 'a broadcast came back to its sender');

    // An alias works as a target, and the receiver sees the fingerprint.
    await o.evaluate((to) => app.client.relay(to, 1), guest.alias);
    const relayed = await g.evaluate(() => app.client.seen(({ type }) => type === 'relay', 'the relay'));
    assert.deepEqual([relayed.to, relayed.payload], [guest.fingerprint, 1]);

    await o.evaluate((args) => app.client.kick(...args), [room, other.fingerprint]);
    const kick = await h.evaluate(() => app.kicked());
    assert.deepEqual([kick.from, kick.payload], [owner.fingerprint, { room_id: room, fingerprint: other.fingerprint }]);
    for (const page of [o, g]) await page.evaluate((fingerprint) => app.left(fingerprint), other.fingerprint);
    // The kicked client has sent `leave` by itself, which must change and say nothing.
    assert.deepEqual(await errorsOf(h), []);
    for (const page of [o, g]) assert.equal((await typesOf(page, 'peer_left')).length, 1);
    const info = await h.evaluate((id) => app.client.roomInfo(id), room);
    assert.deepEqual(info, { room_id: room, peer_count: 2, max_size: 3, owner: owner.fingerprint });

    await g.evaluate((args) => app.client.kick(...args), [room, owner.fingerprint]);
    const forbidden = await g.evaluate(() =>
      app.client.seen((m) => m.type === 'error' && m.payload.code === 403, 'the 403'),
    );
    assert.equal(forbidden.payload.message, 'only room owner can kick');

    await g.close();
    const left = await o.evaluate((fingerprint) => app.left(fingerprint), guest.fingerprint);
    assert.equal(left.namespace, room);
    await o.evaluate((id) => app.client.leave(id), room);
    await o.evaluate(() => app.client.ping());
    assert.deepEqual(await h.evaluate((id) => app.refusal(() => app.client.joinRoom(id)), room), {
      code: 404,
      message: 'room not found',
    });
  },

  async 'an interrupted page comes back as the same peer'({ peer, server }) {
    const [a, b] = [await peer('rooms'), await peer('rooms')];
    const namespace = unique('lobby');
    // Short enough that JSON pings and their pongs happen during the test.
    const short = { pingIntervalMs: 1_000 };
    const alice = await a.evaluate((args) => app.register(...args), [server.url, unique('key'), '', short]);
    await b.evaluate((args) => app.register(...args), [server.url, unique('key'), '']);
    await a.evaluate((ns) => app.client.join(ns), namespace);
    await b.evaluate((ns) => app.client.join(ns), namespace);
    await a.evaluate(() => app.client.seen(({ type }) => type === 'pong', 'a pong'));

    assert.deepEqual(await a.evaluate(() => app.interruption()), [namespace]);
    assert.equal(await a.evaluate(() => app.client.fingerprint), alice.fingerprint);
    await b.evaluate((fingerprint) => app.left(fingerprint), alice.fingerprint);
    await b.evaluate(
      (from) => app.client.seen((m) => m.type === 'peer_joined' && m.from === from, 'the return'),
      alice.fingerprint,
    );
    const types = (await b.evaluate(() => app.settled())).map(({ type }) => type);
    assert.deepEqual(types.slice(-3), ['peer_left', 'peer_joined', 'pong']);
  },

  async 'the same key in a second page replaces the first'({ peer, server }) {
    const [a, b] = [await peer('rooms'), await peer('rooms')];
    const key = unique('key');
    const first = await a.evaluate((args) => app.register(...args), [server.url, key, '']);
    const second = await b.evaluate((args) => app.register(...args), [server.url, key, '']);
    assert.equal(first.fingerprint, second.fingerprint);
    assert.deepEqual(await a.evaluate(() => app.client.closed()), [4001, 'replaced by new connection']);
    await b.evaluate(() => app.client.ping());
    assert.deepEqual(await b.evaluate(() => app.client.closes), []);
  },

  async 'the example in the README works when pasted into a console'({ peer, server }) {
    const readme = readFileSync(path.join(ROOT, 'README.md'), 'utf8');
    const example = /```js\n([\s\S]*?)```/.exec(readme)?.[1];
    assert.ok(example?.includes('ws://localhost:8080/ws'), 'README.md has no browser example');
    const page = await peer('blank');
    const lines = [];
    page.on('console', (line) => lines.push(line.text()));
    const joined = page.waitForEvent('console', { predicate: (line) => line.text().includes('peer_list') });
    await page.evaluate(example.replace('ws://localhost:8080/ws', server.url));
    await joined;
    assert.ok(
      lines.some((line) => line.includes('registered')),
      lines.join('\n'),
    );
  },

  async 'a page asks the same port for its address with STUN'({ peer, server }) {
    const { host, port } = new URL(server.url);
    // `udp` is there once any datagram has come.
    const answered = async () => (await (await fetch(`http://${host}/health`)).json()).udp?.sent.stun ?? 0;
    const before = await answered();
    const page = await peer('blank');
    const gathered = await page.evaluate(gatherCandidates, `stun:127.0.0.1:${port}`);
    // Without a NAT between them the address is the one that the page knows already, and ICE keeps it once. Behind one:
    // tests/nat.
    assert.ok(gathered.candidates.some(({ address }) => address === '127.0.0.1'), JSON.stringify(gathered));
    assert.ok((await answered()) > before, JSON.stringify(gathered));
  },

  // Last: the server does not outlive it.
  async 'a stopping server says 1001 and exits with 0'({ peer, server }) {
    const page = await peer('rooms');
    await page.evaluate((args) => app.register(...args), [server.url, unique('key'), '']);
    await page.evaluate(() => (app.client.wanted = false));
    server.child.kill('SIGTERM');
    const [code] = await page.evaluate(() => app.client.closed());
    assert.equal(code, 1001);
    const [exitCode, signal] = await within(EXIT_TIMEOUT_MS, server.exited, 'the exit of the server');
    assert.deepEqual([exitCode, signal], [0, null]);
  },
};

const unique = (name) => `${name}-${randomUUID().slice(0, 8)}`;
const typesOf = (page, type) =>
  page.evaluate(async (wanted) => {
    await app.client.ping();
    return app.client.received.filter((message) => message.type === wanted);
  }, type);
const errorsOf = (page) => typesOf(page, 'error');
