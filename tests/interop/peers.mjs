// Two WebSocket clients behind one face: npm's `ws`, and PyPI's `websockets` in a process of its own.
//
// Owns: connecting, sending, what arrived, closing. Never: knows what the messages mean.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import path from 'node:path';
import readline from 'node:readline';
import { fileURLToPath } from 'node:url';
import WebSocket from 'ws';
import { within } from './server.mjs';

const ANSWER_TIMEOUT_MS = 5_000;
const HERE = path.dirname(fileURLToPath(import.meta.url));

/** What every kind of peer can do, made of `open`, `send`, `next`, `ping`, `close` and `end`. */
class Peer {
  constructor(name) {
    this.name = name;
  }

  async sendJson(value) {
    await this.send(JSON.stringify(value));
  }

  /** The next message, which must be JSON in a text frame. */
  async nextJson() {
    const event = await this.next();
    assert.equal(typeof event.text, 'string', `${this.name} got ${JSON.stringify(event)}`);
    return JSON.parse(event.text);
  }

  /** The next message must equal this, but for `ts`, which must be a time of today when `timed`. */
  async expect(wanted, { timed = false } = {}) {
    const { ts, ...message } = await this.nextJson();
    assert.deepEqual(message, wanted, this.name);
    if (timed) assert.ok(Number.isInteger(ts) && Math.abs(Date.now() - ts) < 86_400_000, `ts ${ts}`);
    else assert.equal(ts, undefined);
  }

  /** The server's close frame must come next. */
  async expectClose(code, reason) {
    const event = await this.next();
    assert.equal(event.close, code, `${this.name} got ${JSON.stringify(event)}`);
    if (reason !== undefined) assert.equal(event.reason, reason);
  }
}

export class NodePeer extends Peer {
  #events = [];
  #waiting = null;

  /** Resolves with the server's `Sec-WebSocket-Extensions`, or null. `offer` is one of `none`, `deflate`, `narrow`. */
  async open(server, offer) {
    const perMessageDeflate = { none: false, deflate: { threshold: 0 }, narrow: { serverMaxWindowBits: 10 } }[offer];
    const socket = new WebSocket(server.url, { perMessageDeflate, ca: server.certificate?.pem });
    this.socket = socket;
    socket.on('upgrade', (answer) => {
      this.answer = answer.headers['sec-websocket-extensions'] ?? null;
      this.stream = answer.socket;
    });
    socket.on('message', (data, binary) => this.#arrived(binary ? { binary: [...data] } : { text: data.toString() }));
    socket.on('close', (close, reason) => this.#arrived({ close, reason: reason.toString() }));
    const opened = new Promise((resolve, reject) => socket.on('open', resolve).on('error', reject));
    await within(ANSWER_TIMEOUT_MS, opened, `${this.name}: the upgrade`);
    return this.answer;
  }

  /** Bytes that came over the socket so far. */
  bytesRead() {
    return this.stream.bytesRead;
  }

  async send(text, { binary = false } = {}) {
    this.socket.send(text, { binary });
  }

  async next() {
    const arrived = new Promise((resolve) => {
      this.#waiting = resolve;
      this.#hand();
    });
    return within(ANSWER_TIMEOUT_MS, arrived, `${this.name}: a message`);
  }

  /** Resolves when the pong came, with its data. */
  async ping(data) {
    const pong = new Promise((resolve) => this.socket.once('pong', (answer) => resolve(answer.toString())));
    this.socket.ping(data);
    return within(ANSWER_TIMEOUT_MS, pong, `${this.name}: a pong`);
  }

  /** The closing handshake; resolves with the server's code. */
  async close(code, reason) {
    this.socket.close(code, reason);
    for (;;) {
      const event = await this.next();
      if (event.close !== undefined) return event.close;
    }
  }

  async end() {
    this.socket?.terminate();
  }

  #arrived(event) {
    this.#events.push(event);
    this.#hand();
  }

  #hand() {
    if (!this.#waiting || this.#events.length === 0) return;
    const waiting = this.#waiting;
    this.#waiting = null;
    waiting(this.#events.shift());
  }
}

export class PythonPeer extends Peer {
  constructor(name) {
    super(name);
    this.child = spawn(process.env.INTEROP_PYTHON, [path.join(HERE, 'peer.py')], { stdio: ['pipe', 'pipe', 'inherit'] });
    this.exited = new Promise((resolve) => this.child.on('exit', resolve).on('error', resolve));
    this.answers = readline.createInterface({ input: this.child.stdout })[Symbol.asyncIterator]();
    // A process that ended has said so in its answers, which end too.
    this.child.stdin.on('error', () => {});
  }

  async open(server, offer) {
    this.answer = await this.#call('open', server.url, server.certificate?.certificate ?? null, offer);
    return this.answer;
  }

  /** Not to be seen from outside of the process. */
  bytesRead() {
    return null;
  }

  async send(text, { binary = false } = {}) {
    await this.#call('send', text, binary);
  }

  async next() {
    return this.#call('next', ANSWER_TIMEOUT_MS / 1000);
  }

  async ping(data) {
    return this.#call('ping', data, ANSWER_TIMEOUT_MS / 1000);
  }

  async close(code, reason) {
    return this.#call('close', code ?? 1000, reason ?? '');
  }

  async end() {
    this.child.kill('SIGKILL');
    await this.exited;
  }

  async #call(name, ...values) {
    this.child.stdin.write(`${JSON.stringify([name, ...values])}\n`);
    const { value, done } = await within(2 * ANSWER_TIMEOUT_MS, this.answers.next(), `${this.name}: ${name}`);
    if (done) throw new Error(`${this.name} ended`);
    const { result, error } = JSON.parse(value);
    if (error !== undefined) throw new Error(`${this.name}: ${name}: ${error}`);
    return result;
  }
}
