// A reader of connect tokens (netcode 1.02, little endian, as Lightyear 0.17 lays them out) that shares nothing with the
// server's: what it accepts, a game server accepts.
import assert from 'node:assert/strict';
import { xchacha20poly1305 } from '@noble/ciphers/chacha.js';

const VERSION = Buffer.from('NETCODE 1.02\0', 'latin1');

/** Opens a token or throws. `key`: 32 bytes; resolves nothing, asks nobody. */
export function openToken(base64, key, protocolId) {
  const bytes = Buffer.from(base64, 'base64');
  assert.equal(bytes.toString('base64'), base64, 'standard base64 with padding');
  assert.equal(bytes.length, 2048);
  assert.deepEqual(bytes.subarray(0, 13), VERSION);
  assert.equal(bytes.readBigUInt64LE(13), protocolId);
  const [created, expires] = [bytes.readBigUInt64LE(21), bytes.readBigUInt64LE(29)];
  const now = BigInt(Math.floor(Date.now() / 1000));
  assert.ok(created <= now + 2n && expires > now && expires > created, `${created} to ${expires}, now ${now}`);
  const associated = Buffer.concat([VERSION, bytes.subarray(13, 21), bytes.subarray(29, 37)]);
  const sealed = bytes.subarray(61, 61 + 1024);
  const opened = Buffer.from(xchacha20poly1305(key, bytes.subarray(37, 61), associated).decrypt(sealed));

  const inside = new Cursor(opened);
  const clientId = inside.u64();
  const [timeout, internal] = [inside.i32(), inside.addresses()];
  const keys = inside.take(64);
  assert.ok(inside.take(256).every((byte) => byte === 0), 'user data');
  const outside = new Cursor(bytes.subarray(1085));
  assert.equal(outside.i32(), timeout);
  const addresses = outside.addresses();
  assert.deepEqual(outside.take(64), keys);
  assert.ok(outside.rest().every((byte) => byte === 0), 'zeros to the end');
  return { clientId, created, expires, timeout, addresses, internal };
}

class Cursor {
  #at = 0;

  constructor(bytes) {
    this.bytes = bytes;
  }

  take(length) {
    const taken = this.bytes.subarray(this.#at, this.#at + length);
    assert.equal(taken.length, length, 'the token is too short');
    this.#at += length;
    return taken;
  }

  rest() {
    return this.bytes.subarray(this.#at);
  }

  u64() {
    return this.take(8).readBigUInt64LE();
  }

  i32() {
    return this.take(4).readInt32LE();
  }

  addresses() {
    const count = this.take(4).readUInt32LE();
    assert.ok(count >= 1 && count <= 32, `${count} addresses`);
    return Array.from({ length: count }, () => {
      assert.equal(this.take(1)[0], 1, 'an IPv4 address');
      const host = [...this.take(4)].join('.');
      return `${host}:${this.take(2).readUInt16LE()}`;
    });
  }
}
