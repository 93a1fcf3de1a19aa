// A small browser client of the peer protocol (docs/protocol.md), used by every test page.
//
// Owns: one WebSocket at a time, the promises that wait for an answer, the memberships to restore after a reconnect.
// Never: touches the page, and never opens a WebRTC connection (see signalling.html).

const PING_INTERVAL_MS = 25_000;
// This many intervals without a pong and the client gives the connection up with 4000.
const PONG_PATIENCE = 2.5;
const RECONNECT_MS = [100, 200, 400, 800, 1600];
const ANSWER_TIMEOUT_MS = 15_000;
// Another session took over the key: coming back would throw that one out in turn.
const REPLACED = 4001;

export class ServerError extends Error {
  constructor(payload) {
    super(payload?.message ?? 'unknown error');
    this.code = payload?.code;
  }
}

export class PeerClient {
  constructor(url, { publicKey, alias = '', meta = {}, pingIntervalMs = PING_INTERVAL_MS }) {
    Object.assign(this, { url, publicKey, alias, meta, pingIntervalMs });
    this.fingerprint = null;
    this.received = []; // every message of the server in order: the tests read it
    this.closes = []; // every [code, reason] seen
    this.namespaces = new Set();
    this.listeners = new Map();
    this.waiting = []; // { accepts(message), resolve, reject, failsOnError }
    this.attempt = 0;
    this.wanted = false;
  }

  /** Calls `listener` for each message of that type, and on `open`, `close`, `message`. Returns what stops it. */
  on(event, listener) {
    if (!this.listeners.has(event)) this.listeners.set(event, new Set());
    this.listeners.get(event).add(listener);
    return () => this.listeners.get(event).delete(listener);
  }

  /** Opens the socket and registers. Resolves with `{ fingerprint, alias }`. */
  connect() {
    this.wanted = true;
    return new Promise((resolve, reject) => {
      const socket = new WebSocket(this.url);
      this.socket = socket;
      socket.onopen = () => this.register().then(resolve, reject);
      socket.onmessage = ({ data }) => this.#handleMessage(JSON.parse(data));
      socket.onclose = ({ code, reason }) => {
        reject(new Error(`closed with ${code} ${reason}`));
        this.#handleClose(code, reason);
      };
    });
  }

  async register() {
    const answer = this.#answer((message) => message.type === 'registered', { failsOnError: true });
    this.send({ type: 'register', payload: { public_key: this.publicKey, alias: this.alias, meta: this.meta } });
    const { payload } = await answer;
    this.fingerprint = payload.fingerprint;
    this.registeredAlias = payload.alias;
    this.attempt = 0;
    this.#startPings();
    this.#emit('open', payload);
    return payload;
  }

  /** Resolves with the other members. Fields that are undefined are left out by JSON.stringify. */
  join(namespace, { appType, version, meta } = {}) {
    return this.#enter(namespace, { type: 'join', payload: { namespace, app_type: appType, version, meta } });
  }

  leave(namespace) {
    this.namespaces.delete(namespace);
    this.send({ type: 'leave', payload: { namespace } });
  }

  async discover(namespace, limit = 20) {
    const answer = this.#answer((message) => message.type === 'peer_list' && message.payload.namespace === namespace);
    this.send({ type: 'discover', payload: { namespace, limit } });
    return this.#others((await answer).payload.peers);
  }

  signal(to, payload) {
    this.send({ type: 'signal', to, payload });
  }

  relay(to, payload) {
    this.send({ type: 'relay', to, payload });
  }

  broadcast(namespace, data, exclude) {
    this.send({ type: 'broadcast', payload: { namespace, data, exclude } });
  }

  /** Resolves with the `matched` payload once the group is complete. */
  async match(namespace, { criteria, groupSize } = {}) {
    const answer = this.#answer((message) => message.type === 'matched' && message.payload.namespace === namespace);
    this.send({ type: 'match', payload: { namespace, criteria, group_size: groupSize } });
    return (await answer).payload;
  }

  async createRoom(roomId, maxSize = 20) {
    const accepts = (message) => message.type === 'room_created' && message.payload.room_id === roomId;
    const answer = this.#answer(accepts, { failsOnError: true });
    this.send({ type: 'create_room', payload: { room_id: roomId, max_size: maxSize } });
    const { payload } = await answer;
    this.namespaces.add(roomId);
    return payload;
  }

  joinRoom(roomId) {
    return this.#enter(roomId, { type: 'join_room', payload: { room_id: roomId } });
  }

  async roomInfo(roomId) {
    const accepts = (message) => message.type === 'room_info' && message.payload.room_id === roomId;
    const answer = this.#answer(accepts, { failsOnError: true });
    this.send({ type: 'room_info', payload: { room_id: roomId } });
    return (await answer).payload;
  }

  kick(roomId, fingerprint) {
    this.send({ type: 'kick', payload: { room_id: roomId, fingerprint } });
  }

  updateMetadata(meta) {
    this.send({ type: 'metadata', payload: meta });
  }

  /** Resolves with `{ ice_servers, ttl }`; the first is what RTCPeerConnection takes as `iceServers`. */
  async iceServers() {
    const answer = this.#answer((message) => message.type === 'ice_servers');
    this.send({ type: 'ice_servers' });
    return (await answer).payload;
  }

  /** Resolves with the next `pong`: everything that the server sent before it has then been received. */
  ping() {
    const answer = this.#answer((message) => message.type === 'pong');
    this.send({ type: 'ping' });
    return answer;
  }

  /** Resolves with the first message, already received or yet to come, that `accepts` likes. */
  seen(accepts, what = 'a message') {
    const known = this.received.find(accepts);
    return known ? Promise.resolve(known) : this.#answer(accepts, { what });
  }

  /** Resolves with `[code, reason]` of the first close, already seen or yet to come. */
  async closed() {
    if (this.closes.length > 0) return this.closes[0];
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error('still open')), ANSWER_TIMEOUT_MS);
      const stop = this.on('close', (close) => {
        clearTimeout(timer);
        stop();
        resolve(close);
      });
    });
  }

  /** Ends the session for good. */
  close() {
    this.wanted = false;
    this.socket?.close(1000);
  }

  /** Closes the socket as a lost network would: the client comes back by itself. */
  interrupt() {
    this.socket.close(4000, 'interrupted');
  }

  send(message) {
    this.socket.send(JSON.stringify(message));
  }

  #handleMessage(message) {
    this.received.push(message);
    if (message.type === 'pong') this.lastPong = performance.now();
    if (message.type === 'error') {
      // An error names no request, so it fails all that could be meant.
      for (const entry of this.waiting.splice(0)) {
        if (entry.failsOnError) entry.reject(new ServerError(message.payload));
        else this.waiting.push(entry);
      }
    }
    for (const entry of [...this.waiting]) {
      if (entry.accepts(message)) entry.resolve(message);
    }
    if (message.type === 'kick') this.leave(message.payload.room_id);
    this.#emit(message.type, message);
    this.#emit('message', message);
  }

  #handleClose(code, reason) {
    clearInterval(this.pings);
    this.closes.push([code, reason]);
    for (const entry of this.waiting.splice(0)) entry.reject(new Error(`closed with ${code} ${reason}`));
    this.#emit('close', [code, reason]);
    if (this.wanted && code !== REPLACED && this.attempt < RECONNECT_MS.length) {
      setTimeout(() => this.#reconnect(), RECONNECT_MS[this.attempt++]);
    }
  }

  /** The same key gives the same fingerprint; memberships ended with the old session and are asked for again. */
  async #reconnect() {
    try {
      await this.connect();
      for (const namespace of this.namespaces) await this.join(namespace);
      this.#emit('restored', [...this.namespaces]);
    } catch {
      // A failed attempt has closed its socket, and #handleClose has scheduled the next.
    }
  }

  async #enter(namespace, request) {
    const accepts = (message) => message.type === 'peer_list' && message.payload.namespace === namespace;
    const answer = this.#answer(accepts, { failsOnError: true });
    this.send(request);
    const { payload } = await answer;
    this.namespaces.add(namespace);
    return this.#others(payload.peers);
  }

  #others(peers) {
    return peers.filter((peer) => peer.fingerprint !== this.fingerprint);
  }

  #answer(accepts, { failsOnError = false, what = 'an answer' } = {}) {
    return new Promise((resolve, reject) => {
      const entry = { accepts, failsOnError };
      const timer = setTimeout(() => settle(reject)(new Error(`no sight of ${what} in time`)), ANSWER_TIMEOUT_MS);
      const settle = (outcome) => (value) => {
        clearTimeout(timer);
        this.waiting = this.waiting.filter((other) => other !== entry);
        outcome(value);
      };
      entry.resolve = settle(resolve);
      entry.reject = settle(reject);
      this.waiting.push(entry);
    });
  }

  #startPings() {
    clearInterval(this.pings);
    this.lastPong = performance.now();
    this.pings = setInterval(() => {
      if (performance.now() - this.lastPong > this.pingIntervalMs * PONG_PATIENCE) this.socket.close(4000, 'no pong');
      else if (this.socket.readyState === WebSocket.OPEN) this.send({ type: 'ping' });
    }, this.pingIntervalMs);
  }

  #emit(event, value) {
    for (const listener of this.listeners.get(event) ?? []) listener(value);
  }
}
