// STUN clients of other people, from Debian's packages, against the server's own port.
//
// Owns: what each of them is asked to do and what it must say. Never: starts the server, or installs anything.
import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { accessSync, constants } from 'node:fs';
import path from 'node:path';

const CLIENT_TIMEOUT_MS = 10_000;
// The exit code of Debian's `stun` where no server answers: "Blocked or could not reach STUN server".
const STUN_CLIENT_BLOCKED = 0x1c;

/** Name of a test: [the program it needs, Debian's package of it, the test]. */
export const stunClients = {
  'turnutils_stunclient learns its address': [
    'turnutils_stunclient',
    'coturn',
    async ({ port }) => {
      const { code, output } = await run('turnutils_stunclient', ['-p', port, '127.0.0.1']);
      assert.equal(code, 0, output);
      assert.match(output, /UDP reflexive addr: 127\.0\.0\.1:\d+/);
    },
  ],
  'turnutils_natdiscovery sees the port that it sends from': [
    'turnutils_natdiscovery',
    'coturn',
    async ({ port }) => {
      const { code, output } = await run('turnutils_natdiscovery', ['-m', '-f', '-p', port, '127.0.0.1']);
      assert.equal(code, 0, output);
      const reflexive = [...output.matchAll(/UDP reflexive addr: 127\.0\.0\.1:(\d+)/g)].map(([, port]) => port);
      const local = [...output.matchAll(/Local addr: : 0\.0\.0\.0:(\d+)/g)].map(([, port]) => port);
      // One socket for mapping, one for filtering; each line about the reflexive address is printed twice.
      assert.equal(local.length, 2, output);
      assert.deepEqual([...new Set(reflexive)], local, output);
    },
  ],
  // Its requests have no magic cookie. An answer to them would have to carry the address where old gateways rewrite it,
  // and the cookie is what tells STUN from the other protocols of the port.
  'stun-client, which speaks RFC 3489, hears nothing': [
    'stun',
    'stun-client',
    async ({ port, health }) => {
      const before = (await health()).udp;
      const { code, output } = await run('stun', [`127.0.0.1:${port}`]);
      assert.equal(code, STUN_CLIENT_BLOCKED, output);
      // `udp` is there once any datagram has come, and what a loop counted shows a moment later.
      const deadline = Date.now() + CLIENT_TIMEOUT_MS;
      let after;
      do {
        after = (await health()).udp;
        assert.ok(Date.now() < deadline, `not counted as dropped: ${JSON.stringify(after)}`);
      } while (!(after?.dropped.unknown > (before?.dropped.unknown ?? 0)));
    },
  ],
};

export function isInstalled(program) {
  return (process.env.PATH ?? '').split(path.delimiter).some((folder) => {
    try {
      accessSync(path.join(folder, program), constants.X_OK);
      return true;
    } catch {
      return false;
    }
  });
}

/** Resolves with the exit code and everything that was written; some of these clients wait for ever. */
function run(program, args) {
  return new Promise((resolve, reject) => {
    execFile(program, args, { timeout: CLIENT_TIMEOUT_MS, killSignal: 'SIGKILL' }, (error, stdout, stderr) => {
      const output = `${stdout}${stderr}`;
      if (error?.killed) reject(new Error(`${program} did not end within ${CLIENT_TIMEOUT_MS} ms\n${output}`));
      else resolve({ code: error ? error.code : 0, output });
    });
  });
}
