// What one client sees when it asks for something else than the rest, and when the server ends the connection.
import assert from 'node:assert/strict';
import { randomUUID } from 'node:crypto';
import { register } from './conversation.mjs';

export const endings = {
  async 'a client that does not offer compression gets none'({ server, peers: [peer] }) {
    assert.equal(await peer.open(server, 'none'), null);
    await register(peer, 'plain');
    assert.equal(await peer.close(1000), 1000);
  },

  async 'an offer that the server cannot keep is declined and the connection works'({ server, peers: [peer] }) {
    assert.equal(await peer.open(server, 'narrow'), null);
    await register(peer, 'narrow');
    await peer.sendJson({ type: 'ping', padding: 'x'.repeat(10_000) });
    await peer.expect({ type: 'pong' });
    assert.equal(await peer.close(3000, 'done'), 3000);
  },

  async 'a first message that is no register ends the connection'({ peers: [peer], open }) {
    await open(peer);
    await peer.sendJson({ type: 'join', payload: { namespace: 'x' } });
    await peer.expect({ type: 'error', payload: { code: 400, message: 'first message must be register' } });
    await peer.expectClose(1008, 'invalid registration');
  },

  async 'a message that is too long ends the connection'({ peers: [peer], open }) {
    await open(peer);
    await register(peer, 'talkative');
    await peer.sendJson({ type: 'ping', padding: 'x'.repeat(65_536) });
    await peer.expectClose(1009);
  },

  async 'the same key again ends the older connection'({ server, peers: [older], open }) {
    const newer = new older.constructor(`${older.name} again`);
    try {
      await open(older);
      const key = randomUUID();
      await register(older, 'older', key);
      await newer.open(server, 'none');
      await register(newer, 'newer', key);
      await older.expectClose(4001, 'replaced by new connection');
      assert.equal(await newer.close(1000), 1000);
    } finally {
      await newer.end();
    }
  },
};
