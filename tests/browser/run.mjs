// Browser tests: drives headless Chromium against the built server, prints `N passed, N failed`.
//
// PEER_SERVER_BIN names the server (default: the release or debug build of this checkout), CHROMIUM the browser.
import { gameServerTests } from './game_servers.mjs';
import { TEST_TIMEOUT_MS, cleanUp, servePages, startBrowser, startServer, within } from './harness.mjs';
import { tests } from './tests.mjs';

const WHOLE_RUN_MS = 300_000;
const CLEAN_UP_MS = 10_000;
let stopping = false;

const watchdog = setTimeout(() => stop('the whole run took too long'), WHOLE_RUN_MS);
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) process.on(signal, () => stop(`ended by ${signal}`));
// A promise that a failed test left behind: the failure has its line already, and the rest must still be cleaned up.
process.on('unhandledRejection', () => {});

let [passed, failed] = [0, 0];
try {
  await runAll();
} catch (error) {
  failed += 1;
  console.error(error.stack);
}
if (!stopping) {
  await cleanUp();
  clearTimeout(watchdog);
  console.log(`${passed} passed, ${failed} failed`);
  process.exitCode = failed === 0 ? 0 : 1;
}

async function runAll() {
  const server = await startServer();
  const site = await servePages();
  const browser = await startBrowser();
  for (const [name, test] of Object.entries({ ...gameServerTests, ...tests })) {
    if (stopping) return;
    try {
      await runTest(test, { server, site, browser });
      passed += 1;
      console.log(`ok     ${name}`);
    } catch (error) {
      if (stopping) return;
      failed += 1;
      console.log(`FAILED ${name}\n${error.stack}`);
    }
  }
  if (failed > 0) console.log(`what the server wrote to stderr:\n${server.diagnostics.join('').slice(-20_000)}`);
}

async function runTest(test, { server, site, browser }) {
  const contexts = [];
  const faults = [];
  const peer = async (name) => {
    const context = await browser.newContext();
    contexts.push(context);
    const page = await context.newPage();
    page.setDefaultTimeout(TEST_TIMEOUT_MS / 2);
    page.on('pageerror', (error) => faults.push(error));
    if (name === 'blank') return page;
    await page.goto(`${site}/${name}.html`);
    await page.waitForFunction(() => window.app);
    return page;
  };
  try {
    await within(test.timeoutMs ?? TEST_TIMEOUT_MS, test({ peer, server }), 'the test');
    if (faults.length > 0) throw faults[0];
  } finally {
    await Promise.all(contexts.map((context) => context.close()));
  }
}

async function stop(reason) {
  if (stopping) return;
  stopping = true;
  console.error(reason);
  await within(CLEAN_UP_MS, cleanUp(), 'cleaning up').catch((error) => console.error(error.message));
  console.log(`${passed} passed, ${failed + 1} failed`);
  process.exit(1);
}
