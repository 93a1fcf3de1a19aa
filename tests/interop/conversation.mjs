// What two peers do with each other: register, join, signal, relay, broadcast, leave.
import assert from 'node:assert/strict';
import { createHash, randomUUID } from 'node:crypto';

const DEFLATE = 'permessage-deflate; server_no_context_takeover; client_no_context_takeover';
/** Characters of every length, what JSON escapes, numbers of every kind. */
const SMALL = { type: 'answer', text: 'é € 😀 "quoted" \\ \u0000\u001f\u2028', numbers: [0, -1.5, 1e300], none: null };
const candidate = (_, at) => `a=candidate:${at} 1 udp 2122260223 192.0.2.${at} ${40_000 + at} typ host\r\n`;
const CANDIDATES = Array.from({ length: 60 }, candidate).join('');
const OFFER = { type: 'offer', sdp: `v=0\r\no=- 1 2 IN IP4 127.0.0.1\r\n${CANDIDATES}` };
/** With what stands around it, just below the longest message. */
const LARGEST = { padding: 'x'.repeat(65_000) };

export const fingerprintOf = (key) => createHash('sha256').update(key).digest('hex');

/** Registers a peer under a fresh key; resolves with its fingerprint. */
export async function register(peer, alias, key = randomUUID()) {
  const fingerprint = fingerprintOf(key);
  await peer.sendJson({ type: 'register', payload: { public_key: key, alias, meta: { client: peer.name } } });
  await peer.expect({ type: 'registered', from: fingerprint, payload: { fingerprint, alias } });
  return fingerprint;
}

export async function conversation({ server, peers: [first, second], open }) {
  await open(first, second);
  for (const peer of [first, second]) assert.equal(peer.answer, server.compression ? DEFLATE : null, peer.name);

  const [aliasA, aliasB, namespace] = ['a', 'b', 'room'].map((name) => `${name}-${randomUUID()}`);
  const a = await register(first, aliasA);
  const b = await register(second, aliasB);
  const shown = (fingerprint, alias, peer) => ({ fingerprint, alias, meta: { client: peer.name } });

  await first.sendJson({ type: 'join', payload: { namespace } });
  const own = await first.nextJson();
  assert.deepEqual([own.type, own.payload.namespace], ['peer_list', namespace]);
  await second.sendJson({ type: 'join', payload: { namespace } });
  const list = await second.nextJson();
  assert.equal(list.type, 'peer_list');
  assert.deepEqual(
    list.payload.peers.filter((entry) => entry.fingerprint === a),
    [shown(a, aliasA, first)],
  );
  await first.expect({ type: 'peer_joined', from: b, namespace, payload: shown(b, aliasB, second) });

  for (const payload of [OFFER, SMALL, LARGEST]) {
    await first.sendJson({ type: 'signal', to: b, payload });
    await second.expect({ type: 'signal', from: a, to: b, payload }, { timed: true });
    await second.sendJson({ type: 'relay', to: aliasA, payload });
    await first.expect({ type: 'relay', from: b, to: a, payload }, { timed: true });
  }

  const data = { state: OFFER.sdp, step: 1 };
  await first.sendJson({ type: 'broadcast', payload: { namespace, data } });
  await second.expect({ type: 'broadcast', from: a, namespace, payload: { namespace, data } }, { timed: true });

  // Many in one go, both ways at once, each in its order.
  const numbers = Array.from({ length: 30 }, (_, number) => number);
  for (const number of numbers) {
    await first.sendJson({ type: 'signal', to: b, payload: { number, sdp: OFFER.sdp } });
    await second.sendJson({ type: 'signal', to: a, payload: { number, sdp: OFFER.sdp } });
  }
  for (const number of numbers) {
    const payload = { number, sdp: OFFER.sdp };
    await second.expect({ type: 'signal', from: a, to: b, payload }, { timed: true });
    await first.expect({ type: 'signal', from: b, to: a, payload }, { timed: true });
  }

  await expectToBeCompressed(server, first, second, a, b);

  await second.sendJson({ type: 'signal', to: 'nobody', payload: {} });
  await second.expect({ type: 'error', payload: { code: 404, message: 'peer not found' } });
  assert.equal(await first.ping('are you there?'), 'are you there?');
  await first.send(JSON.stringify({ type: 'ping' }), { binary: true });
  await first.expect({ type: 'pong' });

  assert.equal(await second.close(4321, 'bye'), 4321);
  const left = await first.nextJson();
  assert.deepEqual([left.type, left.from, left.namespace], ['peer_left', b, namespace]);
  assert.equal(await first.close(1000), 1000);
}

/** What was negotiated must happen: a message that compresses well takes fewer bytes, and only then. */
async function expectToBeCompressed(server, first, second, a, b) {
  const [reader, writer, from, to] = first.bytesRead() === null ? [second, first, a, b] : [first, second, b, a];
  if (reader.bytesRead() === null) return;
  const before = reader.bytesRead();
  await writer.sendJson({ type: 'signal', to, payload: LARGEST });
  await reader.expect({ type: 'signal', from, to, payload: LARGEST }, { timed: true });
  const taken = reader.bytesRead() - before;
  if (server.compression) assert.ok(taken < 2_000, `${taken} bytes for a compressed message`);
  else assert.ok(taken > 65_000, `${taken} bytes for a plain message`);
}
