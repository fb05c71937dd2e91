// Drives an adapter of Node's, as driver.py does: `prepare`, `single`, `bulk`, `latency` and `work`; answers are JSON.
import fs from 'node:fs';

export const URL_ = process.env.PEER_URL ?? '';
export const SETTINGS = JSON.parse(process.env.PEER_SETTINGS ?? '{}');
export const QUEUE = 'bench';
const RECORD = process.env.PEER_RECORD ?? '/dev/null';
const IS_AT_ONCE = process.env.PEER_RECORD_AT_ONCE === '1';
const PAD = 'x'.repeat(180);
const ENTRY_BYTES = 16;
const FLUSH_MS = 20;
const PAUSE_MS = 20;
const RUN_MS_MAX = 10_000;

export const payload = (id) => ({ id, pad: PAD });

let file;
let noted = [];

// Write down that job `id` begins now.
export function note(id) {
  noted.push(id, process.hrtime.bigint());
  if (file === undefined) {
    file = fs.openSync(RECORD, 'a', 0o600);
    if (!IS_AT_ONCE) setInterval(flush, FLUSH_MS);
  }
  if (IS_AT_ONCE) flush();
}

function flush() {
  if (!noted.length) return;
  const waiting = noted;
  noted = [];
  const buffer = Buffer.allocUnsafe(waiting.length * 8);
  waiting.forEach((value, place) => buffer.writeBigInt64LE(BigInt(value), place * 8));
  fs.writeSync(file, buffer);
}

export async function drive(adapter) {
  const [command, ...rest] = process.argv.slice(2);
  if (command === 'work') return adapter.work();
  if (command === 'prepare') await adapter.prepare();
  else {
    await adapter.open();
    console.log(JSON.stringify(await commands[command](adapter, ...rest.map(Number))));
  }
  process.exit(0);
}

const commands = {
  async single(adapter, count, calls) {
    await Promise.all(times(calls, (number) => adapter.submit(count + number))); // connects
    let next = 0;
    return timed(count, calls, async () => {
      while (next < count) await adapter.submit(next++);
    });
  },

  async bulk(adapter, count, calls, chunk) {
    let next = 0;
    return timed(count, calls, async () => {
      while (next < count) {
        const start = next;
        next += chunk;
        await adapter.submitMany(times(Math.min(chunk, count - start), (number) => start + number));
      }
    });
  },

  async latency(adapter, count) {
    const sent = [];
    for (let number = 0; number < count; number++) {
      // Spread over the phases of timers and polls, so that none of them flatters anybody.
      await sleep(PAUSE_MS + ((number * 7919) % 17));
      sent.push(Number(process.hrtime.bigint()));
      await adapter.submit(number);
      await untilRun(number);
    }
    return { sent };
  },
};

async function timed(count, calls, share) {
  const began = performance.now();
  await Promise.all(times(calls, share));
  const { user, system } = process.cpuUsage();
  return { rate: (count * 1000) / (performance.now() - began), cpu_seconds: (user + system) / 1e6 };
}

async function untilRun(number) {
  const deadline = Date.now() + RUN_MS_MAX;
  while (!fs.existsSync(RECORD) || fs.statSync(RECORD).size <= number * ENTRY_BYTES) {
    if (Date.now() > deadline) throw new Error(`job ${number} did not run within ${RUN_MS_MAX} ms`);
    await sleep(1);
  }
}

const times = (count, make) => Array.from({ length: count }, (_, number) => make(number));
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));
